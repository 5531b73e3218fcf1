"""Which of the soak's two operators works."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

from tests.e2e.support import Kubectl
from tests.soak.gauges import leader


@dataclass(frozen=True)
class Told(Kubectl):
    """kubectl of a cluster with two operators, of which the first may be going."""

    holder: str = ""
    going: bool = False

    def run(self, *words: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 0, stdout=self.holder, stderr="")

    def get(self, kind: str, name: str = "", *more: str) -> Any:
        ending = {"deletionTimestamp": "now"} if self.going else {}
        return [
            {"metadata": {"name": pod, "creationTimestamp": "then", **more}, "status": {"phase": "Running"}}
            for pod, more in (("bloomery-operator-a", ending), ("bloomery-operator-b", {}))
        ]


def test_the_operator_that_works_is_the_pod_that_holds_the_lease() -> None:
    assert leader(Told("system", holder="bloomery-operator-b_c0ffee")) == "bloomery-operator-b"
    assert leader(Told("system", holder="bloomery-operator-a_c0ffee", going=True)) is None
    assert leader(Told("system")) is None
