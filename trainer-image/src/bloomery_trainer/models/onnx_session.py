"""ONNX Runtime on the processors of the container."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from bloomery_model.cgroup import cpu_count


def open_session(path: Path, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Load a model; by default, a run uses all processors of the container.

    ONNX Runtime's own default is a thread for each processor of the node, and these wait for each other actively:
    beyond the container's limit, the kernel stops all of them for most of the time.

    Args:
        path: the model's file.
        threads: that one run uses.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_count() if threads is None else threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
