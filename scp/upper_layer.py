"""PDUs on a socket (PS3.8 section 9.3): the one place that waits for a peer, reads from it and writes to it.

pynetdicom's reactor polls twice a millisecond and thread for work; this module blocks in `recv` instead, so
that an idle association costs nothing, and every wait has an end: a peer that stalls inside a PDU, or sends
a byte a second, is let go after `pdu_timeout`.
"""

import contextlib
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Final

from dcmpress.scp.errors import AbortedError, ConnectionLostError, ProtocolError, ReleasedError

ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_AC: Final = 0x02
ASSOCIATE_RJ: Final = 0x03
P_DATA_TF: Final = 0x04
RELEASE_RQ: Final = 0x05
RELEASE_RP: Final = 0x06
ABORT: Final = 0x07

_PDU_HEADER = struct.Struct(">BxI")
_PDV_HEADER = struct.Struct(">IBB")
_P_DATA_HEADERS = struct.Struct(">BxIIBB")
_ABORT_PDU = struct.Struct(">BxIxxBB")
_RELEASE_PDU = struct.Struct(">BxI4x")

IS_COMMAND: Final = 0x01
IS_LAST: Final = 0x02
"""Bits of a PDV's message control header (PS3.8 section E.2)."""

LARGEST_PDU: Final = 1 << 20
"""Bytes of a PDU's content that are read. Some senders exceed the maximum length they were told."""

LARGEST_SENT: Final = 1 << 17
"""Bytes of P-DATA content sent at a time to a peer that sets no limit."""

_SMALL_BUFFER: Final = 1 << 16
_LARGE_BUFFER: Final = 1 << 20
"""Bytes read at a time: the first suffices for commands, the second is taken when images come."""

_QUICK_ACK: Final = getattr(socket, "TCP_QUICKACK", None)
"""Set before each wait, as Linux forgets it: a peer with Nagle's algorithm on (DCMTK, pynetdicom) holds the rest
of a message back until we acknowledge its first packet, which the kernel would else put off for 40 ms."""

_IOVECS: Final = 64
_SHORT_SEND: Final = 1 << 14
_MOST_HELD: Final = 1 << 14
"""Bytes of short messages that are held back to go out together."""


class Pdv:
    """One presentation data value; `data` is valid until the next PDU is read."""

    __slots__ = ("context_id", "control", "data")

    def __init__(self, context_id: int, control: int, data: memoryview) -> None:
        self.context_id = context_id
        self.control = control
        self.data = data


class UpperLayer:
    """A connected socket as a stream of PDUs.

    Parameters
    ----------
    connection : socket
        Connected (and through with TLS). Owned from here on.
    pdu_timeout : float
        Seconds that a PDU may take from its first byte to its last, and a peer may take to accept ours.
    """

    def __init__(self, connection: socket.socket, pdu_timeout: float) -> None:
        self.socket = connection
        self.pdu_timeout = pdu_timeout
        self.peer_max_pdu = 0
        """Maximum length of P-DATA content that the peer wants, in bytes; 0: no limit."""
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._encrypted = isinstance(connection, ssl.SSLSocket)  # such a socket knows no flags
        # In the clear, each call says MSG_DONTWAIT and waits by poll() if it must: four system calls fewer a message.
        connection.settimeout(pdu_timeout if self._encrypted else None)
        self._buffer = bytearray(_SMALL_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0  # first byte that was not handed out
        self._end = 0  # after the last byte received
        self._held: bytearray | None = None

    # Reading

    def read_pdu(self, idle_timeout: float) -> tuple[int, memoryview]:
        """Return (type, content) of the next PDU; the content is valid until the next call.

        Parameters
        ----------
        idle_timeout : float
            Seconds to wait for its first byte.

        Raises
        ------
        ConnectionLostError, ProtocolError
        """
        if self._end == self._start:
            self._receive(time.monotonic() + idle_timeout, "silent")
        deadline = time.monotonic() + self.pdu_timeout
        while self._end - self._start < _PDU_HEADER.size:
            self._receive(deadline, "stalled inside a PDU")
        kind, length = _PDU_HEADER.unpack_from(self._buffer, self._start)
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise ProtocolError(f"PDU of unknown type {kind:#04x}", ProtocolError.UNRECOGNISED_PDU)
        if length > LARGEST_PDU:
            raise ProtocolError(f"PDU of {length} bytes")
        total = _PDU_HEADER.size + length
        self._make_room(total)
        while self._end - self._start < total:
            self._receive(deadline, "stalled inside a PDU")
        content = self._view[self._start + _PDU_HEADER.size : self._start + total]
        self._start += total
        return kind, content

    def read_data(self, idle_timeout: float) -> Iterator[Pdv]:
        """Return the PDVs of the next P-DATA-TF.

        Raises
        ------
        ReleasedError, AbortedError
            If the peer ends the association instead. A release is not answered here.
        ConnectionLostError, ProtocolError
        """
        kind, content = self.read_pdu(idle_timeout)
        if kind == P_DATA_TF:
            return _pdvs(content)
        if kind == RELEASE_RQ:
            raise ReleasedError("released by the peer")
        if kind == ABORT:
            raise AbortedError(f"aborted by the peer: source and reason {bytes(content[2:4]).hex()}")
        raise ProtocolError(f"PDU of type {kind:#04x} inside an association", ProtocolError.UNEXPECTED_PDU)

    def waiting(self) -> bool:
        """Tell whether the peer has sent something that was not read yet. Does not block."""
        if self._end > self._start:
            return True
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True  # decrypted already, so poll() does not see it
        return self._wait_for(select.POLLIN, 0)

    def _make_room(self, needed: int) -> None:
        if self._start + needed <= len(self._buffer):
            return
        pending = self._end - self._start
        if needed > len(self._buffer):
            larger = bytearray(max(needed, _LARGE_BUFFER))
            larger[:pending] = self._view[self._start : self._end]
            self._buffer, self._view = larger, memoryview(larger)
        else:
            self._buffer[:pending] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, pending

    def _receive(self, deadline: float, what: str) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._make_room(len(self._buffer) - self._start + 1)
        try:
            count = self._receive_into(self._view[self._end :], deadline)
        except TimeoutError:
            raise ConnectionLostError(f"peer {what}") from None
        except OSError as error:
            raise ConnectionLostError(str(error)) from None
        if not count:
            raise ConnectionLostError("connection closed by the peer")
        self._end += count

    def _receive_into(self, view: memoryview, deadline: float) -> int:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if self._encrypted:
                self._acknowledge_at_once()
                self.socket.settimeout(left)
                return self.socket.recv_into(view)
            try:
                return self.socket.recv_into(view, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._acknowledge_at_once()
                self._wait_for(select.POLLIN, left)

    def _acknowledge_at_once(self) -> None:
        if _QUICK_ACK is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _wait_for(self, event: int, seconds: float) -> bool:
        """Wait until the socket can be read or written; tell whether it can."""
        poll = select.poll()  # unlike select(), takes file descriptors beyond 1023
        poll.register(self.socket, event)
        return bool(poll.poll(math.ceil(1000 * seconds)))

    # Writing

    def send(self, *parts: bytes | memoryview) -> None:
        """Send bytes; raise ConnectionLostError if the peer does not take them within `pdu_timeout`."""
        if self._held is not None:
            if len(self._held) + sum(len(part) for part in parts) < _MOST_HELD:
                for part in parts:
                    self._held += part
                return
            parts = (bytes(self._held), *parts)
            self._held.clear()
        views = [memoryview(part) for part in parts]
        if sum(len(view) for view in views) <= _SHORT_SEND:
            views = [memoryview(b"".join(views))]
        deadline = time.monotonic() + self.pdu_timeout
        try:
            while views:
                sent = self._sendmsg(views[:_IOVECS], deadline)
                while views and sent >= len(views[0]):
                    sent -= len(views[0])
                    del views[0]
                if sent:
                    views[0] = views[0][sent:]
        except TimeoutError:
            raise ConnectionLostError("peer takes no data") from None
        except OSError as error:
            raise ConnectionLostError(str(error)) from None

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Send what is sent within together: PDUs wait for the next ones, up to _MOST_HELD bytes, or the end."""
        if self._held is not None:
            yield
            return
        self._held = bytearray()
        try:
            yield
            rest = bytes(self._held)
        finally:
            self._held = None
        if rest:
            self.send(rest)

    def _sendmsg(self, views: list[memoryview], deadline: float) -> int:
        while True:
            left = max(0.001, deadline - time.monotonic())
            if self._encrypted:  # TLS sockets have no sendmsg
                self.socket.settimeout(left)
                return self.socket.send(views[0])
            try:
                return self.socket.sendmsg(views, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._wait_for(select.POLLOUT, left):
                    raise TimeoutError from None

    def send_data(self, context_id: int, control: int, pieces: Iterable[bytes | memoryview]) -> None:
        """Send a command set (`control` = IS_COMMAND) or a data set (0) in as many P-DATA-TF as it takes.

        The last fragment gets IS_LAST, and one NUL where the whole is of odd length (PS3.8 section E.1).
        """
        limit = self.peer_max_pdu or LARGEST_SENT
        room = max(2, (min(limit, LARGEST_SENT) - _PDV_HEADER.size) & ~1)
        waiting: list[bytes | memoryview] = []
        size = 0
        for fragment, last in _fragments(pieces, room):
            length = sum(len(part) for part in fragment)
            flags = control | (IS_LAST if last else 0)
            header = _P_DATA_HEADERS.pack(P_DATA_TF, length + 6, length + 2, context_id, flags)
            waiting += [header, *fragment]
            size += length
            if size >= 1 << 19 or len(waiting) >= _IOVECS - 8:
                self.send(*waiting)
                waiting, size = [], 0
        if waiting:
            self.send(*waiting)

    def send_release_request(self) -> None:
        """Send A-RELEASE-RQ."""
        self.send(_RELEASE_PDU.pack(RELEASE_RQ, 4))

    def send_release_response(self) -> None:
        """Send A-RELEASE-RP."""
        self.send(_RELEASE_PDU.pack(RELEASE_RP, 4))

    def send_abort(self, reason: int = 0, *, by_user: bool = False) -> None:
        """Send A-ABORT: by the service user, or by the provider with a reason of PS3.8 table 9-26."""
        with contextlib.suppress(ConnectionLostError):
            self.send(_ABORT_PDU.pack(ABORT, 4, 0 if by_user else 2, 0 if by_user else reason))

    def close(self) -> None:
        """Close the connection so that the last bytes sent arrive, even if the peer still sends."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            # Closing with unread input resets the connection, and the reset can overtake our last PDU.
            self.socket.settimeout(0.2)
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline and self.socket.recv(1 << 16):
                pass
        self.socket.close()


def _pdvs(content: memoryview) -> Iterator[Pdv]:
    at, size = 0, len(content)
    if not size:
        raise ProtocolError("P-DATA-TF without a PDV")
    while at < size:
        if size - at < _PDV_HEADER.size:
            raise ProtocolError("P-DATA-TF ends inside a PDV header")
        length, context_id, control = _PDV_HEADER.unpack_from(content, at)
        if length < 2 or length > size - at - 4:
            raise ProtocolError(f"PDV says {length} bytes; {size - at - 4} follow")
        yield Pdv(context_id, control, content[at + 6 : at + 4 + length])
        at += 4 + length


def _fragments(
    pieces: Iterable[bytes | memoryview], room: int
) -> Iterator[tuple[list[bytes | memoryview], bool]]:
    """Cut pieces into fragments of `room` bytes (even), the last one shorter; yield (parts, last)."""
    fragment: list[bytes | memoryview] = []
    free = room
    total = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        total += len(view)
        while len(view):
            if not free:
                yield fragment, False
                fragment, free = [], room
            part = view[:free]
            fragment.append(part)
            free -= len(part)
            view = view[len(part) :]
    if total % 2:
        fragment.append(b"\0")  # room is even, so a fragment with an odd count of bytes has one left
    yield fragment, True
