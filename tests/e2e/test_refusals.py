"""Bad input, at apply and after it: each is answered in words, and nothing crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.dev_cluster import Kubectl, eventually


@pytest.fixture(scope="module")
def kubectl(make_namespace: Callable[[str], Kubectl]) -> Kubectl:
    return make_namespace("e2e-refusals")


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bloomery.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def training_job(name: str, **spec: Any) -> dict[str, Any]:
    return manifest("TrainingJob", name, **{"datasets": [{"name": "nowhere"}], "preset": "resnet18"} | spec)


def variant(name: str, weight: int) -> dict[str, Any]:
    return {"name": name, "model": {"trainingJob": "nothing"}, "weight": weight}


@pytest.mark.feature("O2")
@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (training_job("a", prset="resnet18"), "prset"),
        (training_job("a", preset="resnet19"), "resnet19"),
        (manifest("InferenceService", "a", variants=[variant("x", 50), variant("y", 40)]), "100"),
        (manifest("Dataset", "a", source={"uri": "file:///etc"}), "s3://"),
    ],
    ids=["wrong field", "unknown preset", "weights that sum to 90", "a local path"],
)
def test_a_wrong_spec_is_refused_at_apply_in_words(kubectl: Kubectl, refused: dict[str, Any], words: str) -> None:
    done = kubectl.apply(refused)
    assert done.returncode != 0
    assert words in done.stderr


def message(kubectl: Kubectl, kind: str, name: str, condition: str) -> tuple[str, str]:
    conditions = kubectl.get(kind, name).get("status", {}).get("conditions", [])
    return next(((c["reason"], c["message"]) for c in conditions if c["type"] == condition), ("", ""))


def test_a_missing_dataset_is_named_in_a_condition_and_waited_for(kubectl: Kubectl) -> None:
    assert kubectl.apply(training_job("orphan")).returncode == 0
    reason, text = eventually(
        "the condition", lambda: (m := message(kubectl, "tj", "orphan", "Running"))[0] and m, seconds=20
    )
    assert (reason, "'nowhere'" in text) == ("DatasetNotFound", True)


def test_an_empty_prefix_fails_the_dataset_and_names_it(kubectl: Kubectl) -> None:
    assert kubectl.apply(manifest("Dataset", "empty", source={"uri": "s3://bloomery/raw/nothing"})).returncode == 0
    kubectl("wait", "dataset/empty", "--for=jsonpath={.status.phase}=Failed", "--timeout=90s")
    reason, text = message(kubectl, "dataset", "empty", "Ready")
    assert "s3://bloomery/raw/nothing" in text, (reason, text)
    assert "Traceback" not in text


def test_a_service_reports_that_it_waits_for_an_unknown_job(kubectl: Kubectl) -> None:
    assert kubectl.apply(manifest("InferenceService", "waiting", variants=[variant("x", 100)])).returncode == 0
    reason, text = eventually(
        "the condition", lambda: (m := message(kubectl, "isvc", "waiting", "Ready"))[0] and m, seconds=20
    )
    assert (reason, "'nothing'" in text) == ("TrainingJobNotFound", True)


def test_missing_storage_keys_are_reported_with_their_command(
    make_namespace: Callable[[str], Kubectl],
) -> None:
    bare = make_namespace("e2e-bare")
    bare("delete", "secret", "bloomery-storage")
    assert bare.apply(manifest("Dataset", "keyless", source={"uri": "s3://bloomery/raw/digits"})).returncode == 0
    reason, text = eventually(
        "the condition", lambda: (m := message(bare, "dataset", "keyless", "Ready"))[0] and m, seconds=20
    )
    assert reason == "SecretNotFound"
    assert "kubectl create secret generic bloomery-storage" in text
