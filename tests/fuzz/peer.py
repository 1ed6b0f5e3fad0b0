"""A peer without a network: hands the node prepared bytes and keeps what it answers, all in one thread.

It stands where the connected socket would. The next piece of its script comes once the node has read the last
one and waits, so that a dialogue runs as over a network, thousands of times a second. How it ends is part of
the script: the connection is closed, reset, or falls silent; and it may stop taking answers.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal

End = Literal["close", "reset", "silence"]


class ScriptedPeer:
    """What `UpperLayer` uses of a socket.

    Parameters
    ----------
    script : sequence of bytes
        Pieces, each sent when the node waits for input.
    end : "close" | "reset" | "silence"
        What the node meets after the last piece; silence is a timeout that has passed already.
    takes : int or None
        Bytes of answers after which the peer takes no more (None: takes all).
    """

    def __init__(self, script: Sequence[bytes], end: End = "close", takes: int | None = None) -> None:
        self.answers = bytearray()
        self.closed = False
        self._pieces = [memoryview(piece) for piece in reversed(script) if piece]
        self._now = memoryview(b"")
        self._end = end
        self._takes = takes

    def recv_into(self, view: memoryview, count: int = 0, flags: int = 0) -> int:
        """Fill in what is there, or the next piece."""
        if not self._now:
            if not self._pieces:
                if self._end == "silence":
                    raise TimeoutError("timed out")
                if self._end == "reset":
                    raise ConnectionResetError(104, "Connection reset by peer")
                return 0
            self._now = self._pieces.pop()
        count = min(count or len(view), len(view), len(self._now))
        view[:count] = self._now[:count]
        self._now = self._now[count:]
        return count

    def recv(self, count: int) -> bytes:
        """Read while closing: nothing comes any more."""
        return b""

    def sendall(self, data: bytes) -> None:
        """Take an answer."""
        if self._takes is not None and len(self.answers) + len(data) > self._takes:
            if self._end == "silence":
                raise TimeoutError("timed out")
            raise BrokenPipeError(32, "Broken pipe")
        self.answers += data

    def sendmsg(self, views: Sequence[memoryview], ancillary: Sequence[Any] = (), flags: int = 0) -> int:
        """Take an answer in pieces."""
        data = b"".join(views)
        self.sendall(data)
        return len(data)

    def fileno(self) -> int:
        """Return a descriptor that is readable exactly when something can be read without waiting."""
        return _READABLE if self._now else _NEVER

    def settimeout(self, seconds: float) -> None:
        """Timeouts have passed before they begin."""

    def setsockopt(self, *_: int) -> None:
        """There is nothing to set."""

    def shutdown(self, how: int) -> None:
        """The peer sees the end."""

    def close(self) -> None:
        """Note that the node let go."""
        self.closed = True


_READABLE, _NEVER = os.eventfd(1), os.eventfd(0)
