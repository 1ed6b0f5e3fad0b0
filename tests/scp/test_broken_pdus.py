"""What breaks PS3.8 or PS3.7 ends its own association, with the reason that the standard names, and no other."""

import struct
from collections.abc import Iterator

import pytest

from tests.nodes import Node
from tests.scp.instances import instances
from tests.scp.wire import (
    ABORT,
    CT,
    EXPLICIT,
    IMPLICIT,
    MR,
    P_DATA,
    RELEASE_RQ,
    RQ,
    VERIFICATION,
    Wire,
    associate_rq,
    command_set,
    echo,
    echo_rq,
    found,
    pdu,
    pdv,
    store_rq,
    wait_for,
)

TIMEOUT = 1.0
BY_USER, BY_PROVIDER = 0, 2
UNRECOGNISED_PDU, UNEXPECTED_PDU, UNEXPECTED_PARAMETER, INVALID_PARAMETER = 1, 2, 5, 6
(KEPT_UID, KEPT), (UID, DATA) = instances(2, size=64).items()
STORE = [(VERIFICATION, [IMPLICIT]), (MR, [EXPLICIT])]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    timeouts = {"pdu_timeout": TIMEOUT, "association_timeout": 2, "idle_timeout": 3}
    with Node(tmp_path_factory.mktemp("broken"), dicom=timeouts) as running:
        with Wire(running.port) as wire:
            wire.associate(STORE)
            assert wire.store(3, MR, KEPT_UID, KEPT) == 0
        yield running


@pytest.fixture(autouse=True)
def _unharmed(node: Node) -> Iterator[None]:
    """After whatever a test did the node answers, keeps what it acknowledged and nothing in part."""
    yield
    assert echo(node.port) == 0
    assert wait_for(lambda: not node.partial())
    assert found(node.port) == [KEPT_UID]


def associated(node: Node, **fields: object) -> Wire:
    wire = Wire(node.port)
    contexts = wire.associate(STORE, **fields)
    assert contexts == {1: (0, IMPLICIT), 3: (0, EXPLICIT)}
    return wire


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS ClientHello
        bytes(1000),
        b"\xff" * 1000,
        pdu(RQ, b""),
        pdu(RQ, bytes(68)),
        pdu(RQ, b"\xff" * 200),
        pdu(RQ, associate_rq(STORE)[6:], length=0xFFFFFFFF),
        pdu(P_DATA, pdv(1, 3, echo_rq())),
        pdu(RELEASE_RQ, bytes(4)),
        pdu(2, associate_rq(STORE)[6:]),
        pdu(6, bytes(4)),
    ],
    ids=lambda data: data[:8].hex(),
)
def test_before_the_association_the_abort_is_the_users(node: Node, garbage: bytes) -> None:
    with Wire(node.port) as wire:
        wire.send(garbage)
        assert wire.read_abort() == (BY_USER, 0)  # PS3.8 table 9-10, Sta2: AA-1
        assert wire.ended()


def test_an_item_length_that_lies(node: Node) -> None:
    request = bytearray(associate_rq(STORE))
    at = request.index(b"\x20\x00")
    for length in (0, 1, 3, 0xFFFF):
        struct.pack_into(">H", request, at + 2, length)
        with Wire(node.port) as wire:
            wire.send(bytes(request) + pdu(RELEASE_RQ, bytes(4)))
            assert wire.ended()


def test_an_abort_before_the_association_is_not_answered(node: Node) -> None:
    with Wire(node.port) as wire:
        wire.send(pdu(ABORT, bytes(4)))
        with pytest.raises(EOFError):
            wire.read()


def test_another_protocol_version_is_rejected(node: Node) -> None:
    with Wire(node.port) as wire:
        wire.send(associate_rq(STORE, version=2))
        assert wire.read() == (3, bytes([0, 1, 2, 2]))  # by the ACSE provider: not supported


def test_another_application_context_is_rejected(node: Node) -> None:
    with Wire(node.port) as wire:
        wire.send(associate_rq(STORE, application="1.2.3"))
        assert wire.read() == (3, bytes([0, 1, 1, 2]))


COMMAND = pdv(3, 3, store_rq(MR, UID))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (pdu(0x08, bytes(4)), UNRECOGNISED_PDU),
        (pdu(0x00, bytes(4)), UNRECOGNISED_PDU),
        (pdu(0xFF, bytes(100)), UNRECOGNISED_PDU),
        (associate_rq(STORE), UNEXPECTED_PDU),
        (pdu(2, bytes(70)), UNEXPECTED_PDU),
        (pdu(3, bytes(4)), UNEXPECTED_PDU),
        (pdu(6, bytes(4)), UNEXPECTED_PDU),
        (pdu(P_DATA, b""), INVALID_PARAMETER),
        (pdu(P_DATA, b"\0\0\0"), INVALID_PARAMETER),
        (pdu(P_DATA, bytes(6), length=0x7FFFFFFF), INVALID_PARAMETER),
        (pdu(P_DATA, struct.pack(">IBB", 0, 1, 3)), INVALID_PARAMETER),
        (pdu(P_DATA, struct.pack(">IBB", 1, 1, 3)), INVALID_PARAMETER),
        (pdu(P_DATA, struct.pack(">IBB", 0xFFFFFFFF, 1, 3)), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(1, 3, echo_rq()) + b"\0\0"), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(5, 3, echo_rq())), INVALID_PARAMETER),  # a context that was never proposed
        (pdu(P_DATA, pdv(2, 3, echo_rq())), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(1, 3, b"\0\0")), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(1, 3, bytes(64))), INVALID_PARAMETER),  # no Command Field
        (pdu(P_DATA, pdv(1, 3, command_set({0x110: 1}))), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(1, 3, b"\x10\0\x10\0\x04\0\0\0abcd")), INVALID_PARAMETER),  # a patient's name
        (pdu(P_DATA, pdv(1, 3, struct.pack("<HHI", 0, 0x100, 0xFFFFFFF0))), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(3, 2, DATA)), UNEXPECTED_PARAMETER),  # a data set without a command
        (pdu(P_DATA, COMMAND) + pdu(P_DATA, pdv(1, 2, DATA)), INVALID_PARAMETER),
        (pdu(P_DATA, COMMAND) + pdu(P_DATA, COMMAND), INVALID_PARAMETER),  # two commands at once
        (pdu(P_DATA, COMMAND + COMMAND), INVALID_PARAMETER),
        (pdu(P_DATA, COMMAND + pdv(3, 0, DATA[:100]) + pdv(1, 3, echo_rq())), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(1, 1, echo_rq()[:20]) + pdv(3, 3, echo_rq()[20:])), INVALID_PARAMETER),
        (pdu(P_DATA, pdv(1, 1, bytes(15000))) * 5, INVALID_PARAMETER),  # a command without an end
    ],
    ids=range(28),
)
def test_inside_an_association_the_provider_aborts_with_a_reason(
    node: Node, sent: bytes, reason: int
) -> None:
    with associated(node) as wire:
        wire.send(sent)
        assert wire.read_abort() == (BY_PROVIDER, reason)
        assert wire.ended()


def test_a_request_while_another_is_answered_is_answered_after_it(node: Node) -> None:
    """Asynchronous operations were not negotiated; in the buffer they are simply next in line."""
    with associated(node) as wire:
        wire.send(wire.message(1, echo_rq(7)) + wire.message(1, echo_rq(8)))
        answers = [wire.read_message()[1] for _ in range(2)]
        assert [struct.unpack("<H", a[0x120])[0] for a in answers] == [7, 8]
        wire.release()


WHOLE = Wire.message(None, 3, store_rq(MR, UID), DATA, fragment=1500)  # type: ignore[arg-type]
CUTS = sorted(
    {1, 5, 6, 7, 11, 12, 13, 50, 100, 200, 300, len(WHOLE) - 11, *range(400, len(WHOLE) - 11, 1117)}
)
"""Not in the last ten bytes: the PDU that follows would fill up the data set."""


@pytest.mark.parametrize("end", ["close", "abort", "release"])
def test_a_store_that_breaks_off_anywhere_leaves_nothing(node: Node, end: str) -> None:
    for cut in CUTS:
        with associated(node) as wire:
            wire.send(WHOLE[:cut])
            if end == "abort":
                wire.send(pdu(ABORT, bytes(4)))
            elif end == "release":
                wire.send(pdu(RELEASE_RQ, bytes(4)))
            if end == "close":
                wire.socket.close()
            elif cut % 5 == 0:  # cut inside a PDU, the node waits for the rest of it
                wire.socket.shutdown(1)
                assert wire.ended()


def test_a_release_between_the_pdus_of_a_store_is_answered_and_nothing_kept(node: Node) -> None:
    with associated(node) as wire:
        wire.send(pdu(P_DATA, COMMAND) + pdu(P_DATA, pdv(3, 0, DATA[:1000])) + pdu(RELEASE_RQ, bytes(4)))
        assert wire.read()[0] == 6


@pytest.mark.parametrize("cut", [3, 10, len(COMMAND) + 6, len(WHOLE) - 1, 2000])
def test_a_peer_that_stalls_in_a_message_is_let_go_and_holds_up_nobody(node: Node, cut: int) -> None:
    with associated(node) as wire:
        wire.socket.settimeout(4 * TIMEOUT)
        wire.send(WHOLE[:cut])
        assert echo(node.port) == 0  # while it hangs
        assert wire.ended()


def test_a_peer_that_sends_a_byte_at_a_time_is_let_go(node: Node) -> None:
    with associated(node) as wire:
        wire.socket.settimeout(TIMEOUT / 10)
        for k in range(60):
            wire.send(WHOLE[k : k + 1])
            if wire.ended():
                break
        assert k < 25


def test_a_silent_association_is_ended_after_the_idle_timeout(node: Node) -> None:
    with associated(node) as wire:
        wire.socket.settimeout(6)
        assert wire.ended()


def test_a_connection_that_says_nothing_is_let_go(node: Node) -> None:
    with Wire(node.port) as wire:
        wire.socket.settimeout(5)
        assert wire.ended()


def test_messages_in_any_cutting_are_understood(node: Node) -> None:
    """Command and data set in fragments of one byte, several PDVs in a PDU, an empty last fragment."""
    command, data = store_rq(MR, KEPT_UID), KEPT[:]
    fragments = [pdv(3, 1, command[k : k + 1]) for k in range(len(command))] + [pdv(3, 3, b"")]
    fragments += [pdv(3, 0, data[k : k + 7]) for k in range(0, len(data), 7)] + [pdv(3, 2, b"")]
    for per_pdu in (1, 3, 2000):
        with associated(node) as wire:
            for k in range(0, len(fragments), per_pdu):
                wire.send(pdu(P_DATA, b"".join(fragments[k : k + per_pdu])))
            assert wire.status() == 0
            wire.release()


def test_refused_requests_leave_the_association_usable(node: Node) -> None:
    with associated(node) as wire:
        for command, data, status in [
            (store_rq(MR, ""), DATA, 0x0117),
            (store_rq(MR, "1" * 65), DATA, 0x0117),
            (store_rq(MR, "1.2\\3"), DATA, 0x0117),
            (command_set({2: MR, 0x100: 1, 0x110: 1, 0x700: 0, 0x800: 0x101, 0x1000: UID}), None, 0xC000),
            (store_rq(CT, UID), DATA, 0xA900),
            (command_set({2: MR, 0x100: 0x0130, 0x110: 1, 0x800: 0x101}), None, 0x0211),  # N-ACTION
            (command_set({0x100: 0xFFF, 0x120: 9, 0x800: 0x101}), None, None),  # a late C-CANCEL
            (command_set({0x100: 0xFFF, 0x120: 9, 0x800: 0x0001}), None, None),  # whose author lies
        ]:
            wire.send(wire.message(3, command, data))
            if status is not None:
                assert wire.status() == status
        wire.send(wire.message(1, store_rq(MR, UID), DATA))  # on the context for C-ECHO
        assert wire.status() == 0x0122
        wire.send(wire.message(1, echo_rq()))
        assert wire.status() == 0
        wire.release()
