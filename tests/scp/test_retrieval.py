"""C-GET and C-MOVE: honest counts, C-CANCEL, destinations that fail, and blobs that are damaged."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.sop_class import _STORAGE_CLASSES

from tests.nodes import Node
from tests.scp.instances import encoded, image, instances
from tests.scp.receivers import Destination, at_level, get, image_level, move
from tests.scp.wire import (
    CT,
    EXPLICIT,
    IMPLICIT,
    MR,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    Wire,
    command_set,
    echo_rq,
    element,
    item,
    number,
    query_rq,
)

SUCCESS, PENDING, CANCELLED, ALL_FAILED, SOME_FAILED = 0x0000, 0xFF00, 0xFE00, 0xA702, 0xB000
UNKNOWN_DESTINATION, MISMATCH = 0xA801, 0xA900
N = 40
STUDY = "1.2.826.0.1.3680043.8.498.1"
MANY_STUDY = "1.2.826.0.1.3680043.8.498.2"
JPEG = "1.2.840.10008.1.2.4.50"
IMAGES = instances(N, size=64)
MANY = {
    uid: (str(sop_class), encoded(data_set))
    for number, sop_class in enumerate(sorted(_STORAGE_CLASSES.values())[:140], 1)
    for uid, data_set in [image(number, 8, sop_class, StudyInstanceUID=MANY_STUDY, SeriesInstanceUID="1.5")]
}
BROKEN_JPEG = encoded(image(90)[1])
HOLLOW_UID, _hollow = image(90, StudyInstanceUID="1.2.826.0.1.3680043.8.498.3", SeriesInstanceUID="1.6")
_hollow.add_new(
    0x7FE00010, "OB", struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, 4) + b"\xff\xd8\xff\xd9"
)
_hollow["PixelData"].is_undefined_length = True
HOLLOW = encoded(_hollow)
"""Its JPEG stream holds no image: there is nothing that it could be converted to."""


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with Destination([(MR, EXPLICIT)]) as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, destination: Destination) -> Iterator[Node]:
    peers = {
        "dest": destination.peer,
        "down": {"ae_title": "DOWN", "host": "127.0.0.1", "port": 1},
    }
    folder = tmp_path_factory.mktemp("retrieval")
    dicom = {"peers": peers, "response_timeout": 3, "move_retry_seconds": 1}
    with Node(folder, dicom=dicom, pipeline={"settle_seconds": 3600}) as running:
        with Wire(running.port) as wire:
            wire.associate([(MR, [EXPLICIT]), (MR, [JPEG])])
            for uid, data in IMAGES.items():
                assert wire.store(1, MR, uid, data) == 0
            assert wire.store(3, MR, HOLLOW_UID, HOLLOW) == 0
            wire.release()
        for start in (0, 100):
            part = list(MANY.items())[start : start + 100]
            with Wire(running.port) as wire:
                wire.associate([(sop_class, [EXPLICIT]) for _, (sop_class, _) in part])
                for k, (uid, (sop_class, data)) in enumerate(part):
                    assert wire.store(2 * k + 1, sop_class, uid, data) == 0
                wire.release()
        yield running


@pytest.fixture(autouse=True)
def _fresh(destination: Destination) -> None:
    destination.reset()
    destination.accept([(MR, EXPLICIT)])


def whole_study() -> Any:
    return at_level("STUDY", StudyInstanceUID=STUDY)


def remaining(responses: list[Any]) -> list[int]:
    return [r.NumberOfRemainingSuboperations for r, _ in responses if r.Status == PENDING]


def test_counts_of_a_get(node: Node) -> None:
    got = get(node.port, [(MR, EXPLICIT)], whole_study())
    assert got.final.Status == SUCCESS
    assert got.counts == (N, 0, 0)
    assert "NumberOfRemainingSuboperations" not in got.final
    assert remaining(got.responses) == list(range(N - 1, 0, -1))
    assert got.data_sets == IMAGES


def test_counts_and_originator_of_a_move(node: Node, destination: Destination) -> None:
    moved = move(node.port, "DEST", whole_study(), calling="WORKSTATION", message_id=77)
    assert moved.final.Status == SUCCESS
    assert moved.counts == (N, 0, 0)
    assert remaining(moved.responses) == list(range(N - 1, 0, -1))
    assert destination.received.data_sets == IMAGES
    for request in destination.received.requests:
        assert request.MoveOriginatorApplicationEntityTitle == "WORKSTATION"
        assert request.MoveOriginatorMessageID == 77


@pytest.mark.parametrize(
    ("identifier", "status", "count"),
    [
        (at_level("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=STUDY + ".1"), SUCCESS, N),
        (at_level("SERIES", SeriesInstanceUID=STUDY + ".1"), SUCCESS, N),
        (image_level(list(IMAGES)[:3]), SUCCESS, 3),
        (image_level(["1.2.3.4.5"]), SUCCESS, 0),
        (at_level("STUDY", StudyInstanceUID="1.2.3"), SUCCESS, 0),
        (at_level("STUDY"), MISMATCH, None),
        (at_level("FRAME", SOPInstanceUID="1.2"), MISMATCH, None),
        (at_level("", StudyInstanceUID=STUDY), MISMATCH, None),
        (at_level("PATIENT", PatientID="T1"), MISMATCH, None),  # not a level of the study root
    ],
)
def test_levels(node: Node, identifier: Any, status: int, count: int | None) -> None:
    got = get(node.port, [(MR, EXPLICIT)], identifier)
    assert got.final.Status == status
    if count is not None:
        assert len(got.data_sets) == count
        assert got.counts == (count, 0, 0)


def test_an_unknown_destination(node: Node) -> None:
    moved = move(node.port, "NOBODY", whole_study())
    assert moved.final.Status == UNKNOWN_DESTINATION
    assert "dicom.peers" in node.event("move destination unknown")["advice"]


def test_a_destination_that_is_down(node: Node) -> None:
    moved = move(node.port, "DOWN", whole_study())
    assert moved.final.Status == ALL_FAILED
    assert moved.counts == (0, N, 0)
    assert moved.failed == sorted(IMAGES)


def test_a_destination_that_takes_only_some(node: Node, destination: Destination) -> None:
    destination.accept([(CT, EXPLICIT)])
    moved = move(node.port, "DEST", whole_study())
    assert moved.final.Status == ALL_FAILED
    assert moved.failed == sorted(IMAGES)
    wanted = {str(sop_class) for sop_class, _ in list(MANY.values())[:5]}
    destination.accept([(sop_class, EXPLICIT) for sop_class in wanted])
    uids = list(MANY)[:8]
    moved = move(node.port, "DEST", image_level(uids))
    assert moved.final.Status == SOME_FAILED
    assert moved.counts == (5, 3, 0)
    assert moved.failed == sorted(uids[5:])
    assert sorted(destination.received.data_sets) == sorted(uids[:5])


@pytest.mark.parametrize("how", ["failure", "warning", "abort", "silence"])
def test_a_destination_that_does_not_keep_what_it_gets(
    node: Node, destination: Destination, how: str
) -> None:
    bad = sorted(IMAGES)[:2]
    received = destination.received

    def answer(event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid not in bad:
            return received.store(event)
        if how == "abort":
            event.assoc.abort()
        if how == "silence":
            import time

            time.sleep(6)
        return 0xB007 if how == "warning" else 0xA700

    destination.answer = answer
    moved = move(node.port, "DEST", whole_study())
    assert moved.final.Status == SOME_FAILED
    if how == "warning":
        assert moved.counts == (N - 2, 0, 2)
        assert moved.failed == []
    else:
        assert moved.counts == (N - 2, 2, 0)
        assert moved.failed == bad
    assert len(received.data_sets) == N - 2


def test_a_getter_that_refuses_one(node: Node) -> None:
    bad = sorted(IMAGES)[7]
    got = get(
        node.port,
        [(MR, EXPLICIT)],
        whole_study(),
        lambda event: 0xA700 if event.request.AffectedSOPInstanceUID == bad else 0,
    )
    assert got.final.Status == SOME_FAILED
    assert got.counts == (N - 1, 1, 0)
    assert got.failed == [bad]


def test_more_contexts_than_an_association_holds(node: Node, destination: Destination) -> None:
    destination.accept([(sop_class, EXPLICIT) for sop_class, _ in MANY.values()])
    moved = move(node.port, "DEST", at_level("STUDY", StudyInstanceUID=MANY_STUDY))
    assert moved.final.Status == SUCCESS
    assert moved.counts == (len(MANY), 0, 0)
    assert destination.received.data_sets == {uid: data for uid, (_, data) in MANY.items()}
    assert len(destination.associations) > 1
    assert all(len(proposed) <= 128 for proposed in destination.associations)


def test_what_cannot_be_converted_fails_and_the_rest_arrives(node: Node, destination: Destination) -> None:
    uids = [*list(IMAGES)[:4], HOLLOW_UID]
    exact = get(node.port, [(MR, EXPLICIT), (MR, JPEG)], image_level(uids))
    assert exact.counts == (5, 0, 0)
    assert exact.data_sets[HOLLOW_UID] == HOLLOW  # it is what was sent
    for pairs in ([(MR, EXPLICIT)], [(MR, IMPLICIT)]):
        got = get(node.port, pairs, image_level(uids))
        assert got.final.Status == SOME_FAILED
        assert got.counts == (4, 1, 0)
        assert got.failed == [HOLLOW_UID]
        assert sorted(got.data_sets) == sorted(uids[:4])
        destination.reset()
        destination.accept(pairs)
        moved = move(node.port, "DEST", image_level(uids))
        assert (moved.counts, moved.failed) == ((4, 1, 0), [HOLLOW_UID])
        assert sorted(destination.received.data_sets) == sorted(uids[:4])


ROLE_MR = item(0x54, struct.pack(">H", len(MR)) + MR.encode() + b"\0\1")
CANCEL = command_set({0x100: 0x0FFF, 0x120: 9, 0x800: 0x0101})
ASK = element(8, 0x52, "CS", "STUDY ") + element(0x20, 0xD, "UI", STUDY + "\0" * (len(STUDY) % 2))
STORED = {0x100: 0x8001, 0x800: 0x0101, 0x900: 0}


def usable(wire: Wire, context_id: int) -> None:
    wire.send(wire.message(context_id, echo_rq()))
    assert wire.status() == 0
    wire.release()


def test_cancel_of_a_get(node: Node) -> None:
    with Wire(node.port) as wire:
        wire.associate(
            [(STUDY_GET, [EXPLICIT]), (MR, [EXPLICIT]), (VERIFICATION, [IMPLICIT])], user_items=ROLE_MR
        )
        wire.send(wire.message(1, query_rq(STUDY_GET, 0x10, 9), ASK))
        stored = 0
        while True:
            context_id, command, _ = wire.read_message()
            if number(command, 0x100) == 0x8010:
                if number(command, 0x900) != PENDING:
                    break
                continue
            stored += 1
            if stored == 5:
                wire.send(wire.message(1, CANCEL))
            answer = command_set({**STORED, 0x120: number(command, 0x110), 2: MR})
            wire.send(wire.message(context_id, answer))
        assert number(command, 0x900) == CANCELLED
        assert (number(command, 0x1021), number(command, 0x1020)) == (stored, N - stored)
        assert 5 <= stored <= 7
        usable(wire, 5)


def test_a_getter_that_does_not_answer_is_not_waited_for_longer_than_a_destination(node: Node) -> None:
    with Wire(node.port, timeout=15) as wire:
        wire.associate([(STUDY_GET, [EXPLICIT]), (MR, [EXPLICIT])], user_items=ROLE_MR)
        wire.send(wire.message(1, query_rq(STUDY_GET, 0x10, 9), ASK))
        assert wire.ended()


def test_cancel_of_a_move(node: Node, destination: Destination) -> None:
    with Wire(node.port) as wire:
        wire.associate([(STUDY_MOVE, [EXPLICIT]), (VERIFICATION, [IMPLICIT])])
        other = command_set({0x100: 0x0FFF, 0x120: 8, 0x800: 0x0101})  # not this request
        wire.send(wire.message(1, query_rq(STUDY_MOVE, 0x21, 9, "DEST"), ASK) + wire.message(1, other))
        responses = [wire.read_message()[1] for _ in range(4)]
        wire.send(wire.message(1, CANCEL))
        while number(responses[-1], 0x900) == PENDING:
            responses.append(wire.read_message()[1])
        last = responses[-1]
        assert number(last, 0x900) == CANCELLED
        assert number(last, 0x1021) + number(last, 0x1020) == N
        assert number(last, 0x1020) > 0
        usable(wire, 3)
    assert len(destination.received.data_sets) == number(last, 0x1021)


def test_cancel_of_a_find(node: Node) -> None:
    relational = item(0x56, struct.pack(">H", len(STUDY_FIND)) + STUDY_FIND.encode() + b"\1")
    keys = element(8, 0x52, "CS", "IMAGE ") + element(8, 0x18, "UI", "")
    with Wire(node.port) as wire:
        wire.associate([(STUDY_FIND, [EXPLICIT]), (VERIFICATION, [IMPLICIT])], user_items=relational)
        wire.send(wire.message(1, query_rq(STUDY_FIND, 0x20, 9), keys) + wire.message(1, CANCEL))
        statuses = [wire.status()]
        while statuses[-1] == PENDING:
            statuses.append(wire.status())
        assert statuses[-1] == CANCELLED
        assert len(statuses) < 20
        usable(wire, 3)


def test_a_mover_that_goes_away_stops_the_sending(node: Node, destination: Destination) -> None:
    with Wire(node.port) as wire:
        wire.associate([(STUDY_MOVE, [EXPLICIT])])
        wire.send(wire.message(1, query_rq(STUDY_MOVE, 0x21, 9, "DEST"), ASK))
        wire.read_message()
    assert get(node.port, [(MR, EXPLICIT)], whole_study()).counts == (N, 0, 0)
    assert len(destination.received.data_sets) < N


def flip(node: Node) -> None:
    """Change one byte in the middle of the largest blob."""
    blob = max((p for p in (node.data / "blobs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 0x10
    blob.chmod(0o600)
    blob.write_bytes(data)


def test_what_was_received_lately_is_served_from_the_disk_cache(tmp_path: Path) -> None:
    """By several processes, over restarts; the blobs, damaged here, are not read."""
    node = Node(tmp_path / "node", retrieval={"disk_cache_gib": 1}, dicom={"processes": 2})
    with node:
        with Wire(node.port) as wire:
            wire.associate([(MR, [EXPLICIT])])
            for uid, data in IMAGES.items():
                assert wire.store(1, MR, uid, data) == 0
            wire.release()
        node.drained()
        flip(node)
        assert node.stats()["disk_cache"]["bytes"] > sum(map(len, IMAGES.values()))
        assert get(node.port, [(MR, EXPLICIT)], whole_study()).data_sets == IMAGES
        node.stop()
        node.start()
        for _ in range(4):
            assert get(node.port, [(MR, EXPLICIT)], whole_study()).data_sets == IMAGES
    assert "not sent" not in node.log_text()


def test_damage_fails_that_instance_and_never_serves_wrong_bytes(
    tmp_path: Path, destination: Destination
) -> None:
    other, data_set = image(1, SeriesInstanceUID="1.9")
    sent = {**IMAGES, other: encoded(data_set)}
    with Node(tmp_path / "node", dicom={"peers": {"dest": destination.peer}}) as node:
        with Wire(node.port) as wire:
            wire.associate([(MR, [EXPLICIT])])
            for uid, data in sent.items():
                assert wire.store(1, MR, uid, data) == 0
            wire.release()
        node.drained()
        flip(node)
        got = get(node.port, [(MR, EXPLICIT)], whole_study())
        completed, failed, warnings = got.counts
        assert got.final.Status == SOME_FAILED
        assert (completed + failed, warnings) == (N + 1, 0)
        assert failed >= 1
        assert other in got.data_sets
        assert all(sent[uid] == data for uid, data in got.data_sets.items())
        assert got.failed == sorted(set(sent) - set(got.data_sets))
        moved = move(node.port, "DEST", whole_study())
        assert moved.failed == got.failed
        assert destination.received.data_sets == got.data_sets
