"""C-MOVE to destinations that come late, go away, take few associations, or are sent very much."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dcmpress.scp.identifier import encode_failed_list
from dcmpress.scp.retrieve import Progress
from tests.corpus_files import data_set
from tests.nodes import PEER_ENVIRONMENT, Node, free_port
from tests.scp.instances import instances
from tests.scp.receivers import Destination, Retrieved, at_level, move
from tests.scp.wire import (
    EXPLICIT,
    IMPLICIT,
    MR,
    STUDY_MOVE,
    VERIFICATION,
    Wire,
    command_set,
    echo_rq,
    element,
    number,
    wait_for,
)

SUCCESS, PENDING, CANCELLED, ALL_FAILED = 0x0000, 0xFF00, 0xFE00, 0xA702
N = 12
STUDY = "1.2.826.0.1.3680043.8.498.1"
IMAGES = instances(N, size=64)
MESSAGE_ID = 9
CANCEL = command_set({0x100: 0x0FFF, 0x120: MESSAGE_ID, 0x800: 0x0101})
ASK = element(8, 0x52, "CS", "STUDY ") + element(0x20, 0xD, "UI", STUDY + "\0" * (len(STUDY) % 2))
REMAINING, COMPLETED, FAILED = 0x1020, 0x1021, 0x1022


def move_rq(destination: str, priority: int = 0) -> bytes:
    title = destination + " " * (len(destination) % 2)
    return command_set(
        {2: STUDY_MOVE, 0x100: 0x21, 0x110: MESSAGE_ID, 0x600: title, 0x700: priority, 0x800: 1}
    )


@contextmanager
def storescp(port: int, folder: Path, *options: str) -> Iterator[Any]:
    """DCMTK's receiver, from when it listens."""
    folder.mkdir(exist_ok=True)
    receiver = subprocess.Popen(
        ["storescp", "--bit-preserving", "+xa", *options, "-aet", "LATE", "-od", folder, str(port)],
        env=PEER_ENVIRONMENT,
        cwd=folder,
    )

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    assert wait_for(listens)
    try:
        yield receiver
    finally:
        receiver.kill()
        receiver.wait(10)


def received(folder: Path) -> dict[str, bytes]:
    files = [data_set(path) for path in folder.iterdir()]
    return {meta.sop_instance_uid: data for meta, data in files}


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with Destination([(MR, EXPLICIT)], associations=3) as running:
        yield running


@pytest.fixture(scope="module")
def port() -> int:
    """Where storescp will listen."""
    return free_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, destination: Destination, port: int) -> Iterator[Node]:
    peers = {
        "dest": destination.peer,
        "late": {"ae_title": "LATE", "host": "127.0.0.1", "port": port, "associations": 3},
        "wrong": {**destination.peer, "ae_title": "WRONG"},
    }
    dicom = {"peers": peers, "move_retry_seconds": 600}
    folder = tmp_path_factory.mktemp("move")
    with Node(folder, dicom=dicom, pipeline={"settle_seconds": 3600}) as running:
        with Wire(running.port) as wire:
            wire.associate([(MR, [EXPLICIT])])
            for uid, data in IMAGES.items():
                assert wire.store(1, MR, uid, data) == 0
            wire.release()
        yield running


@pytest.fixture(autouse=True)
def _fresh(destination: Destination) -> None:
    destination.reset()


@pytest.fixture
def mover(node: Node) -> Iterator[Wire]:
    """An association that asks for C-MOVE."""
    with Wire(node.port, timeout=60) as wire:
        wire.associate([(STUDY_MOVE, [EXPLICIT]), (VERIFICATION, [IMPLICIT])])
        yield wire


def final(wire: Wire) -> dict[int, bytes]:
    """Return the command set of the last response; those before it are pending."""
    while True:
        _, command, _ = wire.read_message()
        if number(command, 0x900) != PENDING:
            return command


def usable(wire: Wire) -> None:
    wire.send(wire.message(3, echo_rq()))
    assert wire.status() == 0
    wire.release()


def whole_study() -> Any:
    return at_level("STUDY", StudyInstanceUID=STUDY)


def test_a_destination_that_comes_late(node: Node, mover: Wire, port: int, tmp_path: Path) -> None:
    """The requestor hears from us while the destination is called again."""
    mover.send(mover.message(1, move_rq("LATE"), ASK))
    node.event("destination does not answer", destination="LATE")
    _, command, _ = mover.read_message()
    assert number(command, 0x900) == PENDING
    assert number(command, REMAINING) == N
    with storescp(port, tmp_path / "in"):
        command = final(mover)
        assert (number(command, 0x900), number(command, COMPLETED)) == (SUCCESS, N)
        usable(mover)
    assert received(tmp_path / "in") == IMAGES


def test_cancel_while_the_destination_is_called_again(node: Node, mover: Wire) -> None:
    before = len(node.events("destination does not answer"))
    mover.send(mover.message(1, move_rq("LATE"), ASK))
    assert wait_for(lambda: len(node.events("destination does not answer")) > before)
    mover.send(mover.message(1, CANCEL))
    command = final(mover)
    assert (number(command, 0x900), number(command, REMAINING)) == (CANCELLED, N)
    usable(mover)


def test_a_destination_that_is_started_again_meanwhile(mover: Wire, port: int, tmp_path: Path) -> None:
    with storescp(port, tmp_path / "first", "--sleep-after", "1"):
        mover.send(mover.message(1, move_rq("LATE"), ASK))
        for _ in range(2):
            _, command, _ = mover.read_message()
    assert number(command, REMAINING) > 0
    with storescp(port, tmp_path / "second"):
        command = final(mover)
        assert (number(command, 0x900), number(command, COMPLETED)) == (SUCCESS, N)
        usable(mover)
    arrived = {**received(tmp_path / "first"), **received(tmp_path / "second")}
    assert arrived == IMAGES


def test_a_permanent_rejection_is_not_tried_again(node: Node, destination: Destination) -> None:
    destination.ae.require_called_aet = True
    try:
        moved = move(node.port, "WRONG", whole_study())
    finally:
        destination.ae.require_called_aet = False
    assert moved.final.Status == ALL_FAILED
    assert moved.counts == (0, N, 0)
    assert "WRONG rejects" in moved.final.ErrorComment


def test_several_associations_at_a_time(node: Node, destination: Destination) -> None:
    """Each holds its first instance until the others have come."""
    import threading

    together = threading.Barrier(3)
    first: set[int] = set()
    take = destination.received.store

    def answer(event: Any) -> int:
        if id(event.assoc) not in first:
            first.add(id(event.assoc))
            together.wait(30)
        return take(event)

    destination.answer = answer
    moved = move(node.port, "DEST", whole_study())
    assert moved.final.Status == SUCCESS
    assert moved.counts == (N, 0, 0)
    assert len(destination.associations) == 3
    assert destination.received.data_sets == IMAGES


def test_a_destination_that_takes_one_association_only(node: Node, destination: Destination) -> None:
    destination.ae.maximum_associations = 1
    try:
        moved = move(node.port, "DEST", whole_study())
    finally:
        destination.ae.maximum_associations = 10
    assert moved.final.Status == SUCCESS
    assert moved.counts == (N, 0, 0)
    assert destination.received.data_sets == IMAGES
    assert "ErrorComment" not in moved.final


@pytest.mark.parametrize("priority", [0, 1, 2])
def test_the_priority_is_carried_on(mover: Wire, destination: Destination, priority: int) -> None:
    mover.send(mover.message(1, move_rq("DEST", priority), ASK))
    command = final(mover)
    assert number(command, 0x900) == SUCCESS
    assert {request.Priority for request in destination.received.requests} == {priority}
    usable(mover)


def test_counts_beyond_16_bits() -> None:
    """They stay at the largest that VR US holds, for as long as the truth is beyond it."""
    progress = Progress(70_000)
    response: dict[int, Any] = {}
    progress.write(response, remaining=True)
    assert response[REMAINING] == 0xFFFF
    for k in range(70_000):
        progress.count(f"1.2.{k}", SUCCESS if k < 4000 else 0xA700)
    progress.write(response, remaining=True)
    assert (response[REMAINING], response[COMPLETED], response[FAILED]) == (0, 4000, 0xFFFF)


def test_a_failed_list_of_70000() -> None:
    uids = [f"1.2.826.0.1.3680043.8.498.{k}" for k in range(70_000)]
    whole = encode_failed_list(uids, IMPLICIT)
    assert whole[8:].rstrip(b"\0").decode().split("\\") == uids
    cut = encode_failed_list(uids, EXPLICIT)
    (length,) = struct.unpack_from("<H", cut, 6)
    assert length == len(cut) - 8
    listed = cut[8:].rstrip(b"\0").decode().split("\\")
    assert listed == uids[: len(listed)]
    assert 65_400 < length <= 0xFFFE


@pytest.mark.long
def test_more_matches_than_16_bits_count(tmp_path: Path, destination: Destination, port: int) -> None:
    count = 66_000
    peers = {
        "down": {"ae_title": "DOWN", "host": "127.0.0.1", "port": 1},
        "late": {"ae_title": "LATE", "host": "127.0.0.1", "port": port, "associations": 2},
    }
    dicom = {"peers": peers, "move_retry_seconds": 0}
    with Node(tmp_path / "node", dicom=dicom, pipeline={"settle_seconds": 3600}) as node:
        template = next(iter(instances(1, size=2).items()))
        with Wire(node.port) as wire:
            wire.associate([(MR, [EXPLICIT])])
            for k in range(count):
                uid = f"1.2.{k:0{len(template[0]) - 4}}"
                data = template[1].replace(template[0].encode(), uid.encode())
                assert wire.store(1, MR, uid, data) == 0
            wire.release()
        moved: Retrieved = move(node.port, "DOWN", whole_study())
        assert moved.final.Status == ALL_FAILED
        assert moved.counts == (0, 0xFFFF, 0)
        with storescp(port, tmp_path / "in", "--ignore"):
            moved = move(node.port, "LATE", whole_study())
        assert moved.final.Status == SUCCESS
        assert moved.counts == (0xFFFF, 0, 0)
        shown = [status.NumberOfRemainingSuboperations for status, _ in moved.responses[:-1]]
        assert shown[0] == 0xFFFF
        assert shown[-1] == 1
        assert node.event("retrieve finished", completed=count)
