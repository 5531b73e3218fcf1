"""Permissions of files that hold for root as well, whom tests may run as."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_OVERRIDES = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def permissions_obeyed() -> Iterator[None]:
    """Let this thread, and those that it starts, obey the permissions of files."""
    if os.geteuid() != 0:
        yield
        return
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, sets))
    effective = sets[0]
    sets[0] = effective & ~sum(1 << number for number in _OVERRIDES)
    _check(_libc.capset(header, sets))
    try:
        yield
    finally:
        sets[0] = effective
        _check(_libc.capset(header, sets))


def obey_permissions_after_exec() -> None:
    """Let the program that this process becomes obey the permissions of files: a ``preexec_fn``."""
    if os.geteuid() == 0:
        for number in _OVERRIDES:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "the capabilities cannot be changed")
