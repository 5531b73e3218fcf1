"""The end: deleting the three objects leaves nothing running."""

from __future__ import annotations

import pytest

from testing.dev_cluster import EXAMPLE, Digits, eventually

CHILDREN = "jobs,pods,deployments,replicasets,services,httproutes,backendtrafficpolicies,configmaps,secrets"
OURS = "app.kubernetes.io/managed-by=bloomery"


@pytest.mark.feature("S6")
def test_deleting_the_objects_leaves_no_child_of_theirs(digits: Digits) -> None:
    kubectl = digits.kubectl
    assert kubectl.get(CHILDREN, "", f"--selector={OURS}")
    kubectl("delete", f"--filename={EXAMPLE}", "--wait=true")
    left = lambda: [f"{o['kind']}/{o['metadata']['name']}" for o in kubectl.get(CHILDREN, "", f"--selector={OURS}")]  # noqa: E731
    eventually("everything is gone", lambda: not left(), seconds=150, interval=2)
