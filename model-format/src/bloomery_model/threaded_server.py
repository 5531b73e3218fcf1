"""Base of the small HTTP servers beside a program's work: on all interfaces, with a bounded number of threads."""

from __future__ import annotations

import threading
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, ClassVar

from bloomery_model.listening import listen_anywhere


class ThreadedServer(ThreadingMixIn, TCPServer):
    """Answers each connection in a thread; derive from this, then from a server class of the standard library.

    Request handlers must have a ``timeout``: a client that says nothing would keep its thread for ever.
    """

    daemon_threads = True
    block_on_close = False
    max_connections: ClassVar[int] = 16
    """More connections than this are closed at once."""

    def __init__(self, port: int, handler: Any) -> None:
        """Listen on a port of all interfaces; 0 takes a free one.

        Raises:
            OSError: the port is in use.
        """
        self._free = threading.Semaphore(self.max_connections)
        super().__init__(("", port), handler)

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Take a socket of both families; the standard library's is of one, and looks up the name of the host."""
        self.socket.close()
        self.socket = listen_anywhere(int(self.server_address[1]))
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.port

    def server_activate(self) -> None:
        """Leave the socket as it is: it listens already."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless there are too many already."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, in the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing about clients that leave or say nothing."""
