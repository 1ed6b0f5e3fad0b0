"""The connections of one process: which are open, which count as associations, which only take up room."""

import contextlib
import socket
import threading
from dataclasses import dataclass

from dcmpress.scp.association import Association
from dcmpress.scp.census import Census
from dcmpress.scp.log import logger
from dcmpress.scp.upper_layer import UpperLayer

MOST_NEGOTIATING = 256
"""Connections of a process that have not come to an association; a newer one takes the oldest one's place."""


@dataclass(eq=False)
class Connection:
    """A connection and, once negotiated, its association."""

    endpoint: socket.socket
    serial: int
    layer: UpperLayer | None = None
    admitted: bool = False
    """Counts against the limit of associations."""
    dropped: bool = False
    """Its place was needed."""
    association: Association | None = None

    def replace(self, wrapped: socket.socket) -> None:
        """Go on with the socket that TLS has wrapped around ours."""
        self.endpoint = wrapped

    def wake(self, how: int = socket.SHUT_RD) -> bool:
        """End reading, so that a thread that waits for the peer goes on; tell whether the socket was open."""
        try:
            # As a plain socket: SSLSocket.shutdown takes its TLS state away from under the other thread.
            socket.socket.shutdown(self.endpoint, how)
        except OSError:
            return False
        return True


class Connections:
    """The open connections of this process; safe to share between threads."""

    def __init__(self, census: Census) -> None:
        self._census = census
        self._lock = threading.Lock()
        self._open: dict[Connection, None] = {}  # in the order in which they came
        self._negotiating: dict[Connection, None] = {}
        self._flooded = False

    def __len__(self) -> int:
        return len(self._open)

    def open(self, accepted: socket.socket) -> Connection:
        """Enter a connection that was accepted."""
        connection = Connection(accepted, self._census.connected())
        with self._lock:
            self._make_place()
            self._open[connection] = self._negotiating[connection] = None
        return connection

    def _make_place(self) -> None:
        n_negotiating = len(self._negotiating)
        if n_negotiating < MOST_NEGOTIATING:
            self._flooded = self._flooded and n_negotiating > MOST_NEGOTIATING // 2
            return
        if not self._flooded:
            self._flooded = True
            logger.warning(
                "many connections open no association; the oldest are dropped", limit=MOST_NEGOTIATING
            )
        for oldest in list(self._negotiating):
            del self._negotiating[oldest]
            oldest.dropped = True
            if oldest.wake(socket.SHUT_RDWR):
                return

    def admit(self, connection: Connection, limit: int) -> bool:
        """Count a connection as an association, unless there are `limit` in all processes."""
        connection.admitted = self._census.admit(limit)
        with self._lock:
            self._negotiating.pop(connection, None)
        return connection.admitted

    def close(self, connection: Connection) -> None:
        """Close a connection and forget it."""
        if connection.layer is not None:
            connection.layer.close()
        else:
            with contextlib.suppress(OSError):
                connection.endpoint.close()
        with self._lock:
            self._open.pop(connection, None)
            self._negotiating.pop(connection, None)
        self._census.ended(admitted=connection.admitted)

    def end(self, *, late: bool) -> int:
        """Wake the threads that may end now: those between two messages, or when it is `late` all.

        Returns how many connections there are still.
        """
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            if late or connection.association is None or connection.association.idle.is_set():
                connection.wake()
        return len(connections)
