"""What PS3.7 and PS3.8 let a node answer to any bytes: written from the standard, beside the node's own code.

Given the bytes of a peer and the contexts that were accepted, the model walks through PDUs, PDVs and messages
and says which responses must come, in which order, and how the association must end: with A-RELEASE-RP,
with A-ABORT and a reason (PS3.8 table 9-26), or without a word because the peer has gone.
"""

import hashlib
import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

RQ, AC, RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
C_STORE, C_GET, C_FIND, C_MOVE, C_ECHO, N_ACTION, C_CANCEL = 0x01, 0x10, 0x20, 0x21, 0x30, 0x130, 0xFFF
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

LARGEST_PDU, LARGEST_COMMAND = 1 << 20, 1 << 16
"""The node's limits; the standard sets none."""

GONE, RELEASED, REJECTED = "gone", "released", "rejected"
BY_USER = "abort by the user"
UNRECOGNISED_PDU, UNEXPECTED_PDU, UNEXPECTED_PARAMETER, INVALID_PARAMETER = 1, 2, 5, 6


class ViolationError(Exception):
    """The peer breaks the protocol; `reason` as in table 9-26."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


class EndedError(Exception):
    """The conversation is over: released, aborted by the peer, or cut off."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass
class Answer:
    """One response message of the node."""

    context_id: int
    field: int
    message_id: int
    status: int = 0
    store: tuple[str, bytes] | None = None
    """For a C-STORE: SOP Instance UID, and SHA-256 of the data set as sent."""


@dataclass
class Expected:
    """What must come of a peer's bytes."""

    answers: list[Answer] = field(default_factory=list)
    end: str = GONE
    """GONE, RELEASED, or "abort N" with the provider's reason."""
    exact: bool = True
    """False after a query or retrieval: what comes then depends on when it came."""


def expected(sent: bytes, contexts: Container[int], *, past_queries: bool = False) -> Expected:
    """Return what must come of bytes sent after A-ASSOCIATE-AC; `contexts`: the ids that were accepted.

    With `past_queries` go on after a query or retrieval, as if it were answered before the rest came.
    """
    found = Expected()
    try:
        for context_id, command, digest in _messages(sent, contexts):
            number = command.get(0x0100, 0)
            assert isinstance(number, int)
            if number == C_CANCEL or number & RESPONSE:
                continue
            if number in (C_FIND, C_GET, C_MOVE, N_ACTION):
                found.exact = False
                if past_queries:
                    continue
                return found
            message_id = command.get(0x0110, 0)
            assert isinstance(message_id, int)
            answer = Answer(context_id, number | RESPONSE, message_id)
            if number == C_STORE:
                answer.store = (str(command.get(0x1000, "")), digest)
            found.answers.append(answer)
    except ViolationError as violation:
        found.end = f"abort {violation.reason}"
    except EndedError as ended:
        found.end = ended.how
    return found


def _pdus(sent: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while len(sent) - at >= 6:
        kind, length = struct.unpack_from(">BxI", sent, at)
        if not RQ <= kind <= ABORT:
            raise ViolationError(UNRECOGNISED_PDU)
        if length > LARGEST_PDU:
            raise ViolationError(INVALID_PARAMETER)
        if len(sent) - at - 6 < length:
            break
        yield kind, sent[at + 6 : at + 6 + length]
        at += 6 + length
    raise EndedError(GONE)


def _values(sent: bytes) -> Iterator[tuple[int, bool, bool, bytes]]:
    """Yield (context, is command, is last, data) of each presentation data value."""
    for kind, content in _pdus(sent):
        if kind == RELEASE_RQ:
            raise EndedError(RELEASED)
        if kind == ABORT:
            raise EndedError(GONE)
        if kind != P_DATA:
            raise ViolationError(UNEXPECTED_PDU)
        if not content:
            raise ViolationError(INVALID_PARAMETER)
        at = 0
        while at < len(content):
            if len(content) - at < 6:
                raise ViolationError(INVALID_PARAMETER)
            length, context_id, control = struct.unpack_from(">IBB", content, at)
            if not 2 <= length <= len(content) - at - 4:
                raise ViolationError(INVALID_PARAMETER)
            yield context_id, bool(control & 1), bool(control & 2), content[at + 6 : at + 4 + length]
            at += 4 + length


def _messages(sent: bytes, contexts: Container[int]) -> Iterator[tuple[int, dict[int, int | str], bytes]]:
    """Yield (context, command, SHA-256 of the data set) of each whole message."""
    values = _values(sent)
    for context_id, is_command, last, data in values:
        if context_id not in contexts:
            raise ViolationError(INVALID_PARAMETER)
        if not is_command:
            raise ViolationError(UNEXPECTED_PARAMETER)
        encoded = data
        while True:
            if len(encoded) > LARGEST_COMMAND:
                raise ViolationError(INVALID_PARAMETER)
            if last:
                break
            following, is_command, last, data = next(values)
            if following != context_id:
                raise ViolationError(INVALID_PARAMETER)
            if not is_command:
                raise ViolationError(UNEXPECTED_PARAMETER)
            encoded += data
        command = decode(encoded)
        digest = hashlib.sha256()
        if command.get(0x0800, NO_DATA_SET) != NO_DATA_SET and command[0x0100] != C_CANCEL:
            last = False
            while not last:
                following, is_command, last, data = next(values)
                if following != context_id or is_command:
                    raise ViolationError(INVALID_PARAMETER)
                digest.update(data)
        yield context_id, command, digest.digest()


_NUMBERS = frozenset(
    (0x100, 0x110, 0x120, 0x700, 0x800, 0x900, 0x1002, 0x1008, 0x1020, 0x1021, 0x1022, 0x1023, 0x1031)
)


def decode(encoded: bytes) -> dict[int, int | str]:
    """Decode a command set: implicit VR little endian, group 0000 only, with a Command Field."""
    command: dict[int, int | str] = {}
    at = 0
    while at < len(encoded):
        if len(encoded) - at < 8:
            raise ViolationError(INVALID_PARAMETER)
        group, element, length = struct.unpack_from("<HHI", encoded, at)
        if group or length > len(encoded) - at - 8:
            raise ViolationError(INVALID_PARAMETER)
        value = encoded[at + 8 : at + 8 + length]
        at += 8 + length
        if element in _NUMBERS:
            if length < 2:
                raise ViolationError(INVALID_PARAMETER)
            command[element] = value[0] | value[1] << 8
        else:
            command[element] = value.decode("latin-1").strip(" \0")
    if 0x0100 not in command:
        raise ViolationError(INVALID_PARAMETER)
    return command


@dataclass
class Heard:
    """What the node has answered, parsed."""

    opening: str = ""
    """"accepted", REJECTED, BY_USER, or "" for no answer."""
    contexts: dict[int, str] = field(default_factory=dict)
    """Accepted contexts: id -> transfer syntax."""
    answers: list[Answer] = field(default_factory=list)
    requests: int = 0
    """C-STORE and N-EVENT-REPORT requests of the node's own."""
    end: str = GONE
    longest: int = 0
    """Content of the longest P-DATA-TF."""


def heard(answers: bytes) -> Heard:
    """Parse what the node has sent; AssertionError if it breaks the protocol itself."""
    found = Heard()
    at, ended = 0, False
    open_message: list[bytes] = []
    command: dict[int, int | str] | None = None
    while at < len(answers):
        assert not ended, "the node goes on after the end"
        kind, length = struct.unpack_from(">BxI", answers, at)
        content = answers[at + 6 : at + 6 + length]
        assert len(content) == length, "the node breaks off inside a PDU"
        at += 6 + length
        if not found.opening:
            assert kind in (AC, RJ, ABORT), f"the node begins with a PDU of type {kind}"
            ended = kind != AC
            if kind == ABORT:
                assert content == bytes(4), f"abort before the association: {content.hex()}"
                found.opening = BY_USER
            elif kind == RJ:
                assert (length, content[1] in (1, 2), content[2] in (1, 2, 3)) == (4, True, True), (
                    content.hex()
                )
                found.opening = REJECTED
            else:
                found.opening = "accepted"
                found.contexts = _accepted(content)
            continue
        if kind == RELEASE_RP:
            assert length == 4
            found.end, ended = RELEASED, True
        elif kind == ABORT:
            assert (length, content[2] in (0, 2)) == (4, True), content.hex()
            found.end, ended = (f"abort {content[3]}" if content[2] else BY_USER), True
        else:
            assert kind == P_DATA, f"the node sends a PDU of type {kind}"
            found.longest = max(found.longest, length)
            inner = 0
            while inner < length:
                size, context_id, control = struct.unpack_from(">IBB", content, inner)
                value = content[inner + 6 : inner + 4 + size]
                assert len(value) == size - 2, "a PDV of the node's lies"
                assert context_id in found.contexts, "the node uses a context that it has not accepted"
                inner += 4 + size
                assert bool(control & 1) == (command is None), "command and data set out of order"
                open_message.append(value)
                if not control & 2:
                    continue
                if command is None:
                    command = decode(b"".join(open_message))
                    _note(found, context_id, command)
                    if command[0x0800] == NO_DATA_SET:
                        command = None
                else:
                    command = None
                open_message = []
    return found


def _note(found: Heard, context_id: int, command: dict[int, int | str]) -> None:
    number = command[0x0100]
    assert isinstance(number, int)
    if not number & RESPONSE:
        found.requests += 1
        return
    message_id, status = command[0x0120], command[0x0900]
    assert isinstance(message_id, int)
    assert isinstance(status, int)
    found.answers.append(Answer(context_id, number, message_id, status))


def _accepted(content: bytes) -> dict[int, str]:
    contexts, at = {}, 68
    while at < len(content):
        kind, length = struct.unpack_from(">BxH", content, at)
        body = content[at + 4 : at + 4 + length]
        assert len(body) == length, "an item of A-ASSOCIATE-AC lies"
        at += 4 + length
        if kind == 0x21 and body[2] == 0:
            contexts[body[0]] = body[8:].decode()
    return contexts
