"""A peer that sends any bytes it likes, right or wrong (PS3.8 section 9.3), and shares no code with the node."""

import socket
import struct
import time
from collections.abc import Iterable, Sequence

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
CT, MR, SECONDARY_CAPTURE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.7",
)
STUDY_FIND, STUDY_MOVE, STUDY_GET = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 2, 3))

RQ, AC, RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

Proposal = tuple[str, Sequence[str]]
Message = tuple[int, dict[int, bytes], bytes]


def pdu(kind: int, content: bytes, length: int | None = None) -> bytes:
    """Return a PDU; `length` may lie."""
    return struct.pack(">BxI", kind, len(content) if length is None else length) + content


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    """Return a presentation data value item."""
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def item(kind: int, content: bytes) -> bytes:
    """Return an item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(content)) + content


def associate_rq(
    proposals: Sequence[Proposal],
    calling: str = "WIRE",
    called: str = "DCMPRESS",
    max_pdu: int = 16384,
    user_items: bytes = b"",
    version: int = 1,
    application: str = "1.2.840.10008.3.1.1.1",
) -> bytes:
    """Return an A-ASSOCIATE-RQ with contexts numbered 1, 3, 5, ..."""
    content = struct.pack(">HH16s16s32x", version, 0, called.encode().ljust(16), calling.encode().ljust(16))
    content += item(0x10, application.encode())
    for k, (abstract, transfers) in enumerate(proposals):
        sub = item(0x30, abstract.encode()) + b"".join(item(0x40, t.encode()) for t in transfers)
        content += item(0x20, struct.pack(">Bxxx", 2 * k + 1) + sub)
    content += item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3.4") + user_items)
    return pdu(RQ, content)


def command_set(elements: dict[int, int | str]) -> bytes:
    """Return an encoded command set: int is US, a text is padded as UI."""
    body = b""
    for number, value in sorted(elements.items()):
        raw = struct.pack("<H", value) if isinstance(value, int) else value.encode()
        raw += b"\0" * (len(raw) % 2)
        body += struct.pack("<HHI", 0, number, len(raw)) + raw
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def store_rq(sop_class: str, sop_instance: str, message_id: int = 1) -> bytes:
    """Return the command set of a C-STORE-RQ."""
    return command_set({2: sop_class, 0x100: 1, 0x110: message_id, 0x700: 0, 0x800: 1, 0x1000: sop_instance})


def echo_rq(message_id: int = 1) -> bytes:
    """Return the command set of a C-ECHO-RQ."""
    return command_set({2: VERIFICATION, 0x100: 0x30, 0x110: message_id, 0x800: 0x101})


def number(command: dict[int, bytes], element: int) -> int:
    """Return a US element of a decoded command set."""
    return int(struct.unpack("<H", command[element][:2])[0])


class Wire:
    """A connection to the node."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.contexts: dict[int, tuple[int, str]] = {}
        self.pdu_lengths: list[int] = []

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; that the node has closed the connection shows when reading."""
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self.socket.recv(count - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError(f"{len(data)} of {count} bytes, then the end")
            data += more
        return data

    def read(self) -> tuple[int, bytes]:
        """Return (type, content) of the next PDU; EOFError at the end of the connection."""
        kind, length = struct.unpack(">BxI", self._exactly(6))
        self.pdu_lengths.append(length)
        return kind, self._exactly(length)

    def read_abort(self) -> tuple[int, int]:
        """Read until A-ABORT; return its source and reason."""
        while True:
            kind, content = self.read()
            if kind == ABORT:
                return content[2], content[3]

    def ended(self) -> bool:
        """Read until the end of the connection; say whether it came."""
        try:
            while True:
                self.read()
        except EOFError:
            return True
        except TimeoutError:
            return False

    def associate(self, proposals: Sequence[Proposal], **fields: object) -> dict[int, tuple[int, str]]:
        """Open an association; return context id -> (result, transfer syntax)."""
        self.send(associate_rq(proposals, **fields))  # type: ignore[arg-type]
        kind, content = self.read()
        assert kind == AC, (kind, content)
        self.user_items: dict[int, list[bytes]] = {}
        at = 68
        while at < len(content):
            item_kind, length = struct.unpack_from(">BxH", content, at)
            body = content[at + 4 : at + 4 + length]
            at += 4 + length
            if item_kind == 0x21:
                self.contexts[body[0]] = (body[2], body[8:].decode())
            elif item_kind == 0x50:
                inner = 0
                while inner < len(body):
                    sub_kind, sub_length = struct.unpack_from(">BxH", body, inner)
                    value = body[inner + 4 : inner + 4 + sub_length]
                    self.user_items.setdefault(sub_kind, []).append(value)
                    inner += 4 + sub_length
        return self.contexts

    def message(
        self, context_id: int, command: bytes, data: bytes | None = None, fragment: int = 16000
    ) -> bytes:
        """Return the PDUs of a message."""
        parts = [pdu(P_DATA, pdv(context_id, 3, command))]
        if data is not None:
            pieces = [data[k : k + fragment] for k in range(0, len(data), fragment)] or [b""]
            for k, piece in enumerate(pieces):
                parts.append(pdu(P_DATA, pdv(context_id, 2 if k == len(pieces) - 1 else 0, piece)))
        return b"".join(parts)

    def read_message(self) -> Message:
        """Return (context, command elements, data set) of the next message."""
        command, data, ends = b"", b"", 0
        wanted = 1
        context_id = 0
        while ends < wanted:
            kind, content = self.read()
            assert kind == P_DATA, (kind, content)
            at = 0
            while at < len(content):
                length, context_id, control = struct.unpack_from(">IBB", content, at)
                value = content[at + 6 : at + 4 + length]
                at += 4 + length
                if control & 1:
                    command += value
                else:
                    data += value
                if control & 2:
                    ends += 1
                    if control & 1:
                        elements = _elements(command)
                        wanted = 1 if number(elements, 0x800) == 0x101 else 2
        return context_id, _elements(command), data

    def status(self) -> int:
        """Return the status of the next response."""
        return number(self.read_message()[1], 0x900)

    def store(self, context_id: int, sop_class: str, uid: str, data: bytes, message_id: int = 1) -> int:
        """Send one instance; return the status."""
        self.send(self.message(context_id, store_rq(sop_class, uid, message_id), data))
        return self.status()

    def release(self) -> None:
        """Release the association."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        kind, _ = self.read()
        assert kind == RELEASE_RP


def _elements(command: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(command):
        _, element, length = struct.unpack_from("<HHI", command, at)
        found[element] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def echo(port: int) -> int:
    """Open an association, send C-ECHO, release; return the status."""
    with Wire(port) as wire:
        wire.associate([(VERIFICATION, [IMPLICIT])])
        wire.send(wire.message(1, echo_rq()))
        status = wire.status()
        wire.release()
        return status


def find(wire: Wire, context_id: int, level: str, keys: bytes, message_id: int = 5) -> list[bytes]:
    """Send a C-FIND (study root, explicit VR); return the identifiers of the answers."""
    wire.send(wire.message(context_id, query_rq(STUDY_FIND, 0x20, message_id), _level(level) + keys))
    answers: list[bytes] = []
    while True:
        _, command, data = wire.read_message()
        status = number(command, 0x900)
        if status not in (0xFF00, 0xFF01):
            assert status == 0, hex(status)
            return answers
        answers.append(data)


def query_rq(sop_class: str, field: int, message_id: int, destination: str = "") -> bytes:
    """Return the command set of a C-FIND, C-GET or C-MOVE request."""
    elements: dict[int, int | str] = {2: sop_class, 0x100: field, 0x110: message_id, 0x700: 0, 0x800: 1}
    if destination:
        elements[0x600] = destination + " " * (len(destination) % 2)
    return command_set(elements)


def _level(level: str) -> bytes:
    return element(0x0008, 0x0052, "CS", level.ljust(len(level) + len(level) % 2))


def element(group: int, number: int, vr: str, value: str) -> bytes:
    """Return an element in explicit VR little endian; `value` of even length."""
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value.encode()


def found(port: int) -> list[str]:
    """Return the SOP Instance UIDs that the node has, by a relational query, sorted."""
    relational = item(0x56, struct.pack(">H", len(STUDY_FIND)) + STUDY_FIND.encode() + b"\1")
    with Wire(port) as wire:
        wire.associate([(STUDY_FIND, [EXPLICIT])], user_items=relational)
        answers = find(wire, 1, "IMAGE", element(0x0008, 0x0018, "UI", ""))
        wire.release()
    uids = []
    for answer in answers:
        at = answer.index(b"\x08\0\x18\0UI")
        (length,) = struct.unpack_from("<H", answer, at + 6)
        uids.append(answer[at + 8 : at + 8 + length].decode().rstrip("\0"))
    return sorted(uids)


def store_all(port: int, instances: Iterable[tuple[str, str, str, bytes]]) -> list[int]:
    """Send (SOP class, UID, transfer syntax, data set) over one association each; return the statuses."""
    statuses = []
    for sop_class, uid, syntax, data in instances:
        with Wire(port) as wire:
            wire.associate([(sop_class, [syntax])])
            statuses.append(wire.store(1, sop_class, uid, data))
            wire.release()
    return statuses


def wait_for(condition: object, timeout: float = 20.0) -> bool:
    """Wait until a function returns something true."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
