"""The option ``--set``."""

from __future__ import annotations

import pytest

from kubectl_bloomery.errors import CommandError
from kubectl_bloomery.set_option import apply_changes


@pytest.mark.feature("O5")
def test_changes_are_applied_by_path() -> None:
    spec = {"preset": "resnet18", "datasets": [{"name": "a"}, {"name": "b"}], "hyperparameters": {"maxSteps": 10}}

    changed = apply_changes(
        spec,
        [
            "spec.preset=resnet50",
            "hyperparameters.maxSteps=null",
            "hyperparameters.epochs=30",
            "datasets[1].version=3",
            "datasets.0.classes=[roses, 玫瑰]",
            "output.versionLabel='1.0'",
            "resources.limits={cpu: 4}",
            "resources.limits[nvidia.com/gpu]=2",
            r"podTemplate.nodeSelector.nvidia\.com/gpu\.product=NVIDIA-H200",
        ],
    )

    assert changed == {
        "preset": "resnet50",
        "datasets": [{"name": "a", "classes": ["roses", "玫瑰"]}, {"name": "b", "version": 3}],
        "hyperparameters": {"epochs": 30},
        "output": {"versionLabel": "1.0"},
        "resources": {"limits": {"cpu": 4, "nvidia.com/gpu": 2}},
        "podTemplate": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H200"}},
    }


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20:0.001", "20:0.001"),
        ("on", "on"),
        ("007", "007"),
        ("2026-01-01", "2026-01-01"),
        ("flowers: 花 # 1", "flowers: 花 # 1"),
        ("NaN", "NaN"),
        ("", ""),
        ("1e-3", 0.001),
        ("true", True),
        ('"30"', "30"),
        ("'30'", "30"),
        ("[yes, no, 1.5, '2', null]", ["yes", "no", 1.5, "2", None]),
        ("{schedule: 20:0.001, on: off}", {"schedule": "20:0.001", "on": "off"}),
    ],
)
def test_value_is_text_unless_json_or_list_or_map(text: str, value: object) -> None:
    assert apply_changes({}, [f"description={text}"]) == {"description": value}


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "--set needs path=value, such as hyperparameters.epochs=30, not 'epochs'."),
        ("=3", "--set needs path=value"),
        ("limits[gpu=3", "--set needs path=value"),
        ("limits..gpu=3", "--set needs path=value"),
        ("datasets[4].version=1", "the list has 1 items, counted from 0; 4 is none."),
        ("preset.name=x", "'resnet18' has no field 'name'."),
        ("preset={", "the value is not valid YAML."),
    ],
)
def test_invalid_change_is_rejected_with_message(change: str, message: str) -> None:
    with pytest.raises(CommandError) as error:
        apply_changes({"preset": "resnet18", "datasets": [{"name": "flowers"}]}, [change])

    assert message in str(error.value)
