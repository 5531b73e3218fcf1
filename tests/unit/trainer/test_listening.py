"""Servers of the trainer's pods, reached by IPv6 and IPv4."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from bloomery_trainer.commands import tensorboard
from bloomery_trainer.progress_server import Progress, ProgressServer

pytestmark = pytest.mark.feature("O6")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_progress_is_answered_by_both_families(host: str) -> None:
    server = ProgressServer(Progress(stage="training"), kind="train", port=0)
    server.start()
    try:
        with urllib.request.urlopen(f"http://{host}:{server.port}/progress", timeout=10) as response:
            assert response.read() == b'{"stage": "training"}'
    finally:
        server.stop()


def test_curves_are_served_on_all_addresses_of_both_families() -> None:
    command = tensorboard._command(Path("/curves"), port=6006, prefix="")
    # TensorBoard's own option for that; with an address, it listens to one family.
    assert "--bind_all" in command
    assert "--host" not in command


SIGNAL_TO_ANOTHER_THREAD = """
import signal, sys, threading, time
from bloomery_trainer.commands import tensorboard

def follow(*_):
    time.sleep(1)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

tensorboard._follow = follow
tensorboard._command = lambda *_, **__: [sys.executable, "-c", "import time; time.sleep(3600)"]
sys.exit(tensorboard.run("file:///curves", port=0, prefix=""))
"""


def test_tensorboard_ends_whichever_thread_gets_the_signal() -> None:
    ended = subprocess.run([sys.executable, "-c", SIGNAL_TO_ANOTHER_THREAD], timeout=60, check=False)
    assert ended.returncode == 0
