"""Errors of kubectl."""

from __future__ import annotations

import pytest

from kubectl_bloomery.cluster.kubectl import clean_error


@pytest.mark.feature("O5")
@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            'Error from server (NotFound): trainingjobs.bloomery.dev "x" not found\n',
            "There is no TrainingJob 'x' in this namespace; -n names another one.",
        ),
        (
            'error: the server doesn\'t have a resource type "inferenceservices"\n',
            "This cluster knows no InferenceService: Bloomery's chart is not installed there.",
        ),
        (
            'Error from server (Forbidden): secrets "s" is forbidden: User "joe" cannot get resource "secrets"\n',
            'secrets "s" is forbidden: User "joe" cannot get resource "secrets"',
        ),
        (
            "E1121 08:35:13.9   17719 memcache.go:265] no\nThe connection was refused\n",
            "The connection was refused",
        ),
        ("", "kubectl failed."),
    ],
)
def test_error_of_kubectl_becomes_a_sentence(stderr: str, message: str) -> None:
    assert clean_error(stderr) == message
