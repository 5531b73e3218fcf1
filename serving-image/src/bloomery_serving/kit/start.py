"""Serves an unpacked kit, for ``start.sh`` and ``start.bat``."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from pathlib import Path

from bloomery_serving.errors import ModelError
from bloomery_serving.kit.manifest import HOST, PORT, START, KitError


def run(folder: Path, *, host: str, port: int) -> int:
    """Serve until Ctrl+C; return the process' exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    if sys.platform == "win32":
        # ONNX Runtime needs Microsoft's C++ library; the package that carries it puts it there.
        os.add_dll_directory(sys.prefix)
    try:
        with _listen(host, port) as listener:
            # Imported only now: a port that is taken is reported at once.
            from bloomery_serving.kit.server import serve

            serve(folder, listener)
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
        KitError: the address cannot be used; names another.
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
        raise KitError(_explain(error, host, port)) from error
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        cause = "is taken by another program" if error.errno == errno.EADDRINUSE else "may not be used by you"
        return f"Port {port} {cause}. Choose another one, as in: {START} --port {8988 if port == PORT else PORT}"
    return f"{host} is no address of this machine. {HOST} is reached from here alone, 0.0.0.0 from other machines too."
