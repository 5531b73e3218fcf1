"""What a training that is done again takes over from the old one."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_bloomery.kubectl import CommandError
from kubectl_bloomery.manifest import again, next_name, with_changes


def job(**output: Any) -> dict[str, Any]:
    return {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "flowers", "namespace": "demo", "uid": "1", "labels": {"argocd": "x"}},
        "spec": {"datasets": [{"name": "flowers"}], "preset": "resnet18", "stop": True, "suspend": False}
        | ({"output": output} if output else {}),
        "status": {"phase": "Complete"},
    }


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("name", "taken", "found"),
    [
        ("flowers", [], "flowers-2"),
        ("flowers", ["flowers", "flowers-2"], "flowers-3"),
        ("flowers-2", ["flowers-2"], "flowers-3"),
        ("resnet-v1", [], "resnet-v1-2"),
        ("a" * 40, [], "a" * 38 + "-2"),
    ],
)
def test_the_new_name_is_the_next_free_one(name: str, taken: list[str], found: str) -> None:
    assert next_name(name, taken) == found


@pytest.mark.feature("O5")
def test_status_metadata_and_wishes_of_the_moment_stay_behind() -> None:
    new = again(job(), "flowers-2")

    assert new == {
        "apiVersion": "bloomery.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "flowers-2", "namespace": "demo"},
        "spec": {"datasets": [{"name": "flowers"}], "preset": "resnet18", "output": {"registeredModel": "flowers"}},
    }


@pytest.mark.feature("O5")
def test_each_job_keeps_a_folder_and_a_label_of_its_own() -> None:
    old = job(uri="s3://team/flowers/", logUri="s3://team/logs", versionLabel="1.0", registeredModel="blossom")

    assert again(old, "flowers-2")["spec"]["output"] == {
        "uri": "s3://team/flowers-2",
        "logUri": "s3://team/logs-flowers-2",
        "registeredModel": "blossom",
    }
    assert old["spec"]["output"]["versionLabel"] == "1.0"


@pytest.mark.feature("O5")
def test_changes_are_made_by_their_paths() -> None:
    spec = {"preset": "resnet18", "datasets": [{"name": "a"}, {"name": "b"}], "hyperparameters": {"maxSteps": 10}}

    changed = with_changes(
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
def test_a_value_is_text_unless_it_is_json_a_list_or_a_map(text: str, value: object) -> None:
    assert with_changes({}, [f"description={text}"]) == {"description": value}


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("epochs", "--set wants path=value, such as hyperparameters.epochs=30, not 'epochs'."),
        ("=3", "--set wants path=value"),
        ("limits[gpu=3", "--set wants path=value"),
        ("limits..gpu=3", "--set wants path=value"),
        ("datasets[4].version=1", "the list has 1 items, counted from 0; 4 is none."),
        ("preset.name=x", "there is nothing below 'resnet18' that could be 'name'."),
        ("preset={", "the value is no YAML."),
    ],
)
def test_a_change_that_leads_nowhere_is_refused_in_a_sentence(change: str, said: str) -> None:
    with pytest.raises(CommandError) as refused:
        with_changes(job()["spec"], [change])

    assert said in str(refused.value)
