"""Work that SIGTERM ends at once, whichever thread gets the signal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bloomery_serving.stopping import run_until_stopped

END_SECONDS = 60

GETS_SIGNAL_ITSELF = """
import os, signal, sys, threading, time
from bloomery_serving.stopping import run_until_stopped

def work():
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name not in ("join", "_wait_for_tstate_lock"):
        time.sleep(0.05)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(3600)

run_until_stopped(work, on_stop=lambda: os._exit(7))
"""


def test_signal_that_another_thread_gets_ends_the_work() -> None:
    ended = subprocess.run([sys.executable, "-c", GETS_SIGNAL_ITSELF], timeout=END_SECONDS, check=False)
    assert ended.returncode == 7


def test_result_and_error_of_the_work_are_passed_on() -> None:
    assert run_until_stopped(lambda: 5, on_stop=lambda: None) == 5
    with pytest.raises(ValueError, match="of the work"):
        run_until_stopped(lambda: int("of the work"), on_stop=lambda: None)
