"""SIGTERM that takes effect at once, whichever thread gets it and whatever the main thread does."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from bloomery_model.signals import on_sigterm

END_SECONDS = 60

ANOTHER_THREAD_GETS_IT = """
import os, signal, threading, time
from bloomery_model.signals import on_sigterm

def send():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(3600)

with on_sigterm(lambda: os._exit(7)):
    threading.Thread(target=send, daemon=True).start()
    time.sleep(3600)
"""

NATIVE_CODE_HOLDS_THE_MAIN_THREAD = """
import ctypes, os, signal, threading, time
from bloomery_model.signals import on_sigterm

with on_sigterm(lambda: os._exit(7)):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):  # the second time waits for good, and no signal interrupts it
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize("code", [ANOTHER_THREAD_GETS_IT, NATIVE_CODE_HOLDS_THE_MAIN_THREAD], ids=["thread", "native"])
def test_signal_ends_the_block_at_once(code: str) -> None:
    ended = subprocess.run([sys.executable, "-c", code], timeout=END_SECONDS, check=False)
    assert ended.returncode == 7


def test_handler_before_is_restored_after_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="of the block"), on_sigterm(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
        int("of the block")
    assert signal.getsignal(signal.SIGTERM) is before
