"""A DICOM peer as thin as can be: prepared bytes over a raw socket, so that the sender is not what is measured.

It knows no more of DICOM than the messages that the benchmark exchanges, and shares no network code with
the node. A peer's errors are exceptions here: a benchmark that loses images has no result.
"""

import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dcmpress.scp import commands
from dcmpress.scp.commands import Command

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"

CALLING_AE = "BENCH"
_MAX_PDU = 131072
"""Bytes of a PDU that we tell the peer to keep to."""


class PeerError(Exception):
    """The server refused, failed or went away."""


@dataclass(frozen=True)
class Proposal:
    """One presentation context to propose."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...] = (EXPLICIT,)
    receives: bool = False
    """Whether we are SCP of it, as the requestor of C-GET is."""


class Client:
    """One association with a server on 127.0.0.1."""

    def __init__(
        self, port: int, called_ae: str, proposals: Sequence[Proposal], timeout: float = 300
    ) -> None:
        self.contexts: dict[str, int] = {}
        """Abstract syntax -> id of its presentation context."""
        self.peer_max_pdu = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(1 << 21))
        self._start = self._end = 0
        self._socket.sendall(_associate_request(called_ae, proposals))
        kind, content = self._read_pdu()
        if kind != 2:
            raise PeerError(f"association refused: PDU type {kind}, {bytes(content[:8]).hex()}")
        self._read_accept(bytes(content), proposals)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the association and close."""
        try:
            self._socket.sendall(struct.pack(">BxI4x", 5, 4))
            self._read_pdu()
        except (OSError, PeerError):
            pass
        self._socket.close()

    def message(self, abstract_syntax: str, command: Command, data: bytes = b"") -> bytes:
        """Return a message as this peer wants it: command and data set in PDUs of its size."""
        context_id = self.contexts[abstract_syntax]
        limit = min(self.peer_max_pdu or _MAX_PDU, _MAX_PDU)
        encoded = commands.encode_command(command)
        return b"".join((*_pdus(context_id, 1, encoded, limit), *_pdus(context_id, 0, data, limit)))

    # Services

    def store(self, messages: Iterable[bytes]) -> None:
        """Send prepared C-STORE requests, each after the answer to the one before."""
        for message in messages:
            self._socket.sendall(message)
            answer, _ = self._read_message()
            status = commands.number(answer, commands.STATUS, 0xFFFF)
            if status != 0:
                raise PeerError(f"C-STORE answered with {status:04X}")

    def find(self, message: bytes) -> tuple[float, int]:
        """Send a prepared C-FIND request; return (seconds until the last answer, matches)."""
        started = time.perf_counter()
        self._socket.sendall(message)
        matches = 0
        while True:
            answer, _ = self._read_message()
            status = commands.number(answer, commands.STATUS, 0xFFFF)
            if status == 0:
                return time.perf_counter() - started, matches
            if status not in (0xFF00, 0xFF01):
                raise PeerError(f"C-FIND answered with {status:04X}")
            matches += 1

    def get(self, message: bytes) -> tuple[float, int, int]:
        """Send a prepared C-GET request; return (seconds, instances received, their bytes)."""
        started = time.perf_counter()
        self._socket.sendall(message)
        instances = size = 0
        while True:
            command, length = self._read_message()
            if commands.number(command, commands.COMMAND_FIELD) == commands.C_STORE_RQ:
                instances += 1
                size += length
                sop_class = commands.text(command, commands.AFFECTED_SOP_CLASS_UID)
                self._socket.sendall(self.message(sop_class, commands.response_to(command, 0)))
                continue
            status = commands.number(command, commands.STATUS, 0xFFFF)
            if status == 0:
                return time.perf_counter() - started, instances, size
            if status != 0xFF00:
                raise PeerError(f"C-GET answered with {status:04X}")

    # Bytes

    def _read_message(self) -> tuple[Command, int]:
        """Return the next command and the length of its data set, whose bytes are dropped."""
        command: Command | None = None
        encoded = b""
        size = 0
        while True:
            kind, content = self._read_pdu()
            if kind != 4:
                raise PeerError(f"PDU type {kind} inside an association")
            at = 0
            while at < len(content):
                length, _, control = struct.unpack_from(">IBB", content, at)
                if control & 1:
                    encoded += content[at + 6 : at + 4 + length]
                    if control & 2:
                        command = commands.decode_command(encoded)
                        follows = commands.number(command, commands.COMMAND_DATA_SET_TYPE)
                        if follows == commands.NO_DATA_SET:
                            return command, 0
                else:
                    size += length - 2
                    if control & 2:
                        assert command is not None
                        return command, size
                at += 4 + length

    def _read_pdu(self) -> tuple[int, memoryview]:
        self._fill(6)
        kind, length = struct.unpack_from(">BxI", self._buffer, self._start)
        self._fill(6 + length)
        content = self._buffer[self._start + 6 : self._start + 6 + length]
        self._start += 6 + length
        return kind, content

    def _fill(self, needed: int) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        if self._start + needed > len(self._buffer):
            pending = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(pending)] = pending
            self._start, self._end = 0, len(pending)
        while self._end - self._start < needed:
            count = self._socket.recv_into(self._buffer[self._end :])
            if not count:
                raise PeerError("connection closed by the server")
            self._end += count

    def _read_accept(self, content: bytes, proposals: Sequence[Proposal]) -> None:
        at = 68
        while at + 4 <= len(content):
            kind, length = struct.unpack_from(">BxH", content, at)
            item = content[at + 4 : at + 4 + length]
            if kind == 0x21 and item[2] == 0:
                self.contexts[proposals[item[0] // 2].abstract_syntax] = item[0]
            elif kind == 0x50 and item[:1] == b"\x51":
                (self.peer_max_pdu,) = struct.unpack_from(">I", item, 4)
            at += 4 + length
        refused = [p.abstract_syntax for p in proposals if p.abstract_syntax not in self.contexts]
        if refused:
            raise PeerError(f"presentation contexts refused: {refused}")


def store_command(sop_class_uid: str, sop_instance_uid: str, message_id: int) -> Command:
    """Return a C-STORE request."""
    return _request(commands.C_STORE_RQ, sop_class_uid, message_id) | {
        commands.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid
    }


def find_command(message_id: int) -> Command:
    """Return a Study Root C-FIND request."""
    return _request(commands.C_FIND_RQ, STUDY_ROOT_FIND, message_id)


def get_command(message_id: int) -> Command:
    """Return a Study Root C-GET request."""
    return _request(commands.C_GET_RQ, STUDY_ROOT_GET, message_id)


def _request(field: int, sop_class_uid: str, message_id: int) -> Command:
    return {
        commands.AFFECTED_SOP_CLASS_UID: sop_class_uid,
        commands.COMMAND_FIELD: field,
        commands.MESSAGE_ID: message_id,
        commands.PRIORITY: 0,
        commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET_FOLLOWS,
    }


def _pdus(context_id: int, is_command: int, data: bytes, limit: int) -> Iterable[bytes]:
    """Return P-DATA-TF PDUs of at most `limit` bytes of content, one PDV in each."""
    data += b"\0" * (len(data) % 2)
    room = (limit - 6) & ~1
    for at in range(0, len(data), room):
        part = data[at : at + room]
        control = is_command | (2 if at + room >= len(data) else 0)
        yield struct.pack(">BxIIBB", 4, len(part) + 6, len(part) + 2, context_id, control)
        yield part


def _associate_request(called_ae: str, proposals: Sequence[Proposal]) -> bytes:
    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(content)) + content

    contexts = b"".join(
        item(
            0x20,
            bytes((2 * number + 1, 0, 0, 0))
            + item(0x30, proposal.abstract_syntax.encode())
            + b"".join(item(0x40, syntax.encode()) for syntax in proposal.transfer_syntaxes),
        )
        for number, proposal in enumerate(proposals)
    )
    roles = b"".join(
        item(
            0x54,
            struct.pack(">H", len(proposal.abstract_syntax)) + proposal.abstract_syntax.encode() + b"\0\1",
        )
        for proposal in proposals
        if proposal.receives
    )
    user = item(0x51, struct.pack(">I", _MAX_PDU)) + item(0x52, b"2.25.104217") + roles
    body = (
        struct.pack(">H2x16s16s32x", 1, called_ae.ljust(16).encode(), CALLING_AE.ljust(16).encode())
        + item(0x10, b"1.2.840.10008.3.1.1.1")
        + contexts
        + item(0x50, user)
    )
    return struct.pack(">BxI", 1, len(body)) + body
