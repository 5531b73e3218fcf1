"""The leader among the soak's two operators."""

from __future__ import annotations

from unittest.mock import create_autospec

from testing.dev_cluster import Kubectl
from tests.soak.gauges import leader

FIRST, SECOND = "bloomery-operator-a", "bloomery-operator-b"


def test_leader_holds_the_lease_and_is_not_terminating() -> None:
    system = create_autospec(Kubectl, instance=True)
    system.get.return_value = [
        {
            "metadata": {"name": FIRST, "creationTimestamp": "1", "deletionTimestamp": "2"},
            "status": {"phase": "Running"},
        },
        {"metadata": {"name": SECOND, "creationTimestamp": "1"}, "status": {"phase": "Running"}},
    ]
    for holder, works in ((f"{SECOND}_c0ffee", SECOND), (f"{FIRST}_c0ffee", None), ("", None)):
        system.run.return_value.stdout = holder
        assert leader(system) == works
