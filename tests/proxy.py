"""A line between two peers that counts."""

import socket
import threading


class CountingProxy:
    """Passes connections on to a port and counts the bytes that go there."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.bytes = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._server.accept()
            except OSError:
                return
            outer = socket.create_connection(("127.0.0.1", self.target))
            for a, b, counts in ((inner, outer, True), (outer, inner, False)):
                threading.Thread(target=self._pass, args=(a, b, counts), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                self.bytes += len(data) if counts else 0
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()
