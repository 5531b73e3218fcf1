"""What `make bench-serving` makes of what it sees."""

from __future__ import annotations

import re
from pathlib import Path

from bench.servers import Start, starts
from bench.serving import _summary
from bloomery_serving import server


def test_our_slowest_answers_are_compared_with_those_of_the_peer_that_has_the_fastest() -> None:
    def rounds(rate: float, p99: float) -> list[dict[str, float]]:
        return [{"rate": rate, "p50": 10.0, "p99": p99}]

    found = _summary([200.0], {"bloomery": rounds(150, 60), "many": rounds(100, 120), "soon": rounds(50, 40)})

    assert (found["bestPeer"], found["ofBestPeer"]) == ("many", 1.5)
    assert (found["p99OfBestPeer"], found["p99OfLeastPeer"]) == (0.5, 1.5)


def test_the_servers_own_clock_is_read_in_its_log() -> None:
    (said,) = re.findall(r'"(the model is ready [^"]+)"', Path(server.__file__).read_text(encoding="utf-8"))
    log = f"INFO {said % (2.1, 0.4, 1.2)}\nINFO something else\nINFO {said % (1.9, 0, 1)}\n"

    assert starts(log) == [Start(ready=2.1, fetched=0.4, loaded=1.2), Start(ready=1.9, fetched=0.0, loaded=1.0)]
