"""``python -m bloomery_serving start``: serves an unpacked kit; what ``start.sh`` and ``start.bat`` run."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from bloomery_serving.errors import ModelError
from bloomery_serving.kit.manifest import KitError

HOST, PORT = "127.0.0.1", 8987
START = "start.bat" if sys.platform == "win32" else "./start.sh"


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl+C; return the process' exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    given = _parser().parse_args(arguments)
    if sys.platform == "win32":
        # ONNX Runtime needs Microsoft's C++ library; the package that carries it puts it there.
        os.add_dll_directory(sys.prefix)
    try:
        with _listen(given.host, given.port) as listener:
            # Only now: a port that is taken is told at once.
            from bloomery_serving.kit.server import serve

            serve(given.folder, listener)
    except (KitError, ModelError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass  # passed on after the server has ended; not where a shell started it in the background
    print("Stopped.")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Take the address; connections wait until the server takes them.

    Raises:
        KitError: it can not be had; says what to do.
    """
    listener = socket.socket()
    if sys.platform == "win32":
        # There, SO_REUSEADDR would let two programs have the same port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise KitError(_why(error, host, port)) from error
    return listener


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        taken = "is taken by another program" if error.errno == errno.EADDRINUSE else "may not be used by you"
        return f"Port {port} {taken}. Choose another one, as in: {START} --port {8988 if port == PORT else PORT}"
    return f"{host} is no address of this machine. {HOST} is reached from here alone, 0.0.0.0 from other machines too."


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 1 to 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=START, description="Serve the model of this kit, without internet.")
    parser.add_argument("--host", default=HOST, help="0.0.0.0 lets other machines in, without a key (%(default)s)")
    parser.add_argument("--port", type=_port, default=PORT, help="(%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(), help=argparse.SUPPRESS)
    return parser
