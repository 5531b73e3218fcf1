"""The figures of `make bench-serving`."""

from __future__ import annotations

import re
from pathlib import Path

from bench.servers import Start, starts
from bench.serving import _summary
from bloomery_serving import loading


def test_server_is_compared_with_loops_and_peers_and_with_itself_before() -> None:
    def rounds(rate: float, p99: float) -> list[dict[str, float]]:
        return [{"rate": rate, "p50": 10.0, "p99": p99}]

    own = {"bloomery": rounds(150, 60), "bloomery OnnxRuntime": rounds(75, 120)}
    loops = {"onnxRuntime": [100.0], "openvino bfloat16": [200.0]}
    summary = _summary(loops, own | {"many": rounds(100, 120), "soon": rounds(50, 40)})

    assert (summary["ofBestLoop"], summary["ofOnnxRuntimeLoop"]) == (0.75, 0.75)
    assert (summary["ofBefore"], summary["p99OfBefore"]) == (2.0, 0.5)
    assert (summary["bestPeer"], summary["ofBestPeer"]) == ("many", 1.5)
    assert (summary["p99OfBestPeer"], summary["p99OfLeastPeer"]) == (0.5, 1.5)


def test_start_times_are_read_from_log() -> None:
    (log_format,) = re.findall(r'"(the model is ready [^"]+)"', Path(loading.__file__).read_text(encoding="utf-8"))
    log = f"INFO {log_format % (2.1, 0.4, 1.2)}\nINFO something else\nINFO {log_format % (1.9, 0, 1)}\n"

    assert starts(log) == [Start(ready=2.1, fetched=0.4, loaded=1.2), Start(ready=1.9, fetched=0.0, loaded=1.0)]
