"""A slice of the protocol fuzzer, the same on every run, and every conversation that ever went wrong."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from dcmpress.scp.commands import C_STORE_RSP
from tests.fuzz import conversations
from tests.fuzz.conversations import ECHO, PRIVATE, STORE_MR, message, request
from tests.fuzz.model import RELEASED
from tests.fuzz.protocol import CRASHERS, Case, InProcessNode, cases
from tests.scp.instances import encoded, image
from tests.scp.wire import MR, associate_rq, command_set, echo_rq, item, store_rq

RELEASE = b"\5\0\0\0\0\4\0\0\0\0"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessNode]:
    running = InProcessNode(tmp_path_factory.mktemp("fuzz"))
    yield running
    running.check_kept()
    running.archive.close()


@pytest.mark.parametrize("name", conversations.good())
def test_a_good_conversation_ends_well(node: InProcessNode, name: str) -> None:
    """Else the fuzzer would damage what is broken already."""
    answered = node.hold(Case(tuple(conversations.good()[name])))
    assert answered is not None
    assert answered.opening == "accepted"
    assert answered.end == ("gone" if name == "abort" else RELEASED)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_conversations(node: InProcessNode, seed: int) -> None:
    for case in islice(cases(random.Random(seed)), 250):
        node.hold(case)
    node.renew()


@pytest.mark.parametrize("path", sorted(CRASHERS.glob("*.json")), ids=lambda path: path.stem)
def test_what_once_went_wrong(node: InProcessNode, path: Path) -> None:
    node.hold(Case.from_json(path.read_text()))


def test_every_cut_of_a_store_in_two_reads(node: InProcessNode) -> None:
    """Wherever the network cuts, the answer is the same."""
    uid, data_set = image(3, 4, uid="1.2.4.9")
    store = message(STORE_MR, store_rq(MR, uid), encoded(data_set), fragment=90) + RELEASE
    for cut in range(1, len(store)):
        answered = node.hold(Case((request(plain=True), store[:cut], store[cut:])))
        assert answered is not None
        assert [answer.status for answer in answered.answers] == [0]
        assert answered.end == RELEASED


@pytest.mark.parametrize("end", ["close", "reset", "silence"])
def test_a_store_that_breaks_off_at_any_byte(node: InProcessNode, end: str) -> None:
    """And with an abort behind it, which at most places is taken for the rest of a PDU."""
    uid, data_set = image(3, 4, uid="1.2.4.10")
    opening, store = request(plain=True), message(STORE_MR, store_rq(MR, uid), encoded(data_set), fragment=90)
    whole = opening + store
    for cut in range(len(whole)):
        for tail in (b"", b"\7\0\0\0\0\4\0\0\0\0"):
            node.hold(Case((whole[:cut] + tail,), end))  # type: ignore[arg-type]
    node.check_kept()


def test_a_peer_that_stops_taking_answers(node: InProcessNode) -> None:
    for name in ("stores", "find", "get", "commit"):
        for takes in range(0, 2400, 60):
            node.hold(Case(tuple(conversations.good()[name]), "silence", takes))


def test_a_response_that_nobody_asked_for_is_not_answered(node: InProcessNode) -> None:
    """Two nodes that answer each other's answers would never stop."""
    response = command_set({2: MR, 0x100: C_STORE_RSP, 0x120: 1, 0x800: 0x101, 0x900: 0})
    script = request(plain=True), message(STORE_MR, response) + message(ECHO, echo_rq(5)), RELEASE
    answered = node.hold(Case(script))
    assert answered is not None
    assert [(answer.context_id, answer.message_id) for answer in answered.answers] == [(ECHO, 5)]


def test_a_context_without_an_abstract_syntax_is_refused_and_the_others_go_on(node: InProcessNode) -> None:
    whole = bytearray(associate_rq([(MR, ["1.2.840.10008.1.2"])]))
    user = whole.index(item(0x51, b"")[:2] + b"\0\4") - 4
    bare = item(0x20, bytes([PRIVATE, 0, 0, 0]) + item(0x40, b"1.2.840.10008.1.2"))
    whole[user:user] = bare
    whole[2:6] = (len(whole) - 6).to_bytes(4, "big")
    answered = node.hold(Case((bytes(whole), RELEASE)))
    assert answered is not None
    assert answered.opening == "accepted"
    assert list(answered.contexts) == [1]
    assert answered.end == RELEASED
