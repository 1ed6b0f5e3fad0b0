"""Each status of a C-STORE has its reason, and what was refused leaves nothing behind."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from tests.nodes import Node, sha256
from tests.scp.instances import encoded, image
from tests.scp.receivers import get, image_level
from tests.scp.wire import (
    CT,
    EXPLICIT,
    IMPLICIT,
    MR,
    STUDY_FIND,
    STUDY_GET,
    Wire,
    echo,
    element,
    found,
    query_rq,
    wait_for,
)

OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND, DUPLICATE = 0xA700, 0xA900, 0xC000, 0x0111
MIB = 1 << 20


def store(node: Node, uid: str, data: bytes, sop_class: str = MR, syntax: str = EXPLICIT) -> int:
    with Wire(node.port) as wire:
        wire.associate([(sop_class, [syntax])])
        status = wire.store(1, sop_class, uid, data)
        wire.release()
        return status


def served(node: Node, uid: str) -> bytes | None:
    return get(node.port, [(MR, EXPLICIT)], image_level([uid])).data_sets.get(uid)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("status")) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    storage = {"on_unreadable": "refuse", "on_conflict": "reject"}
    with Node(tmp_path_factory.mktemp("strict"), storage=storage) as running:
        yield running


def test_under_the_watermark_nothing_is_accepted_until_there_is_room_again(tmp_path: Path) -> None:
    stat = os.statvfs(tmp_path)
    free = stat.f_bavail * stat.f_frsize // MIB
    margin = min(2048, free // 3)
    with Node(tmp_path / "node", storage={"reserve_mib": free - margin}) as node:
        (first, data), (second, other) = ((uid, encoded(ds)) for uid, ds in (image(1), image(2)))
        assert store(node, first, data) == 0
        hog = tmp_path / "hog"
        with hog.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, min(2 * margin, free - 16) * MIB)
        assert store(node, second, other) == OUT_OF_RESOURCES
        assert found(node.port) == [first]
        assert echo(node.port) == 0
        hog.unlink()
        assert store(node, second, other) == 0
        assert found(node.port) == sorted([first, second])


def test_a_disk_that_fills_in_the_middle_of_a_store(node: Node) -> None:
    """The limit on a file's size stands for a full disk: the same write fails at the same point."""
    uid, data_set = image(1, size=3000)
    data = encoded(data_set)
    assert node.process is not None
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    for pid in node.listeners():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (10 * MIB, hard))
    try:
        with Wire(node.port) as wire:
            wire.associate([(MR, [EXPLICIT])])
            assert wire.store(1, MR, uid, data) == OUT_OF_RESOURCES
            small, data_set = image(2)
            assert wire.store(1, MR, small, encoded(data_set)) == 0  # the association goes on
            wire.release()
    finally:
        for pid in node.processes():  # workers that began meanwhile too
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert not node.partial()
    assert uid not in found(node.port)
    assert store(node, uid, data) == 0


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_uids_that_differ_from_the_requests(node: Node, syntax: str) -> None:
    uid, data_set = image()
    data = encoded(data_set, syntax)
    assert store(node, "1.2.3", data, syntax=syntax) == MISMATCH
    assert store(node, uid, data, sop_class=CT, syntax=syntax) == MISMATCH
    assert uid not in found(node.port)
    assert "1.2.3" not in found(node.port)


CUT = b"\x08\0\x05\0CS\x0a\0ISO_IR"
GARBAGE = bytes(range(256)) * 40


@pytest.mark.parametrize("data", [CUT, GARBAGE, b"\0", encoded(image()[1])[:-3000]], ids=len)
def test_unreadable_data_sets_are_kept_exactly(node: Node, data: bytes) -> None:
    uid = image()[0]
    if len(data) > 100 and data != GARBAGE:  # cut in the pixel data: readable, but not whole
        start = data.index(b"\x08\0\x18\0UI") + 8
        uid = data[start : start + data[start - 2]].decode().rstrip("\0")
    assert store(node, uid, data) == 0
    assert served(node, uid) == data + b"\0" * (len(data) % 2)
    node.drained()
    assert served(node, uid) == data + b"\0" * (len(data) % 2)


def test_unreadable_data_sets_are_shown(node: Node) -> None:
    before = node.stats()["needs_attention"]
    uid = generate_uid()
    assert store(node, uid, GARBAGE) == 0
    node.event("kept, but cannot be read", sop_instance=uid)
    assert node.stats()["needs_attention"] == before + 1


@pytest.mark.parametrize("data", [CUT, GARBAGE])
def test_unreadable_data_sets_can_be_refused(strict: Node, data: bytes) -> None:
    uid = generate_uid()
    assert store(strict, uid, data) == CANNOT_UNDERSTAND
    assert uid not in found(strict.port)


def two_versions(uid: str) -> tuple[bytes, bytes]:
    return encoded(image(1, uid=uid)[1]), encoded(image(2, uid=uid)[1])


@pytest.mark.parametrize("settled", [False, True])
def test_the_same_bytes_again_store_nothing_new(node: Node, strict: Node, settled: bool) -> None:
    for one in (node, strict):
        uid, data_set = image()
        data = encoded(data_set)
        assert store(one, uid, data) == 0
        if settled:
            one.drained()
        before = found(one.port)
        assert store(one, uid, data) == 0
        one.event("store", sop_instance=uid, outcome="duplicate")
        assert found(one.port) == before
        one.drained()
        assert served(one, uid) == data


@pytest.mark.parametrize("settled", [False, True])
def test_other_bytes_are_refused_if_so_configured(strict: Node, settled: bool) -> None:
    uid = generate_uid()
    first, second = two_versions(uid)
    assert store(strict, uid, first) == 0
    if settled:
        strict.drained()
    assert store(strict, uid, second) == DUPLICATE
    assert served(strict, uid) == first


@pytest.mark.parametrize("settled", [False, True])
def test_other_bytes_are_served_and_the_older_kept(node: Node, tmp_path: Path, settled: bool) -> None:
    uid = generate_uid()
    first, second = two_versions(uid)
    assert store(node, uid, first) == 0
    if settled:
        node.drained()
    assert store(node, uid, second) == 0
    if settled:
        node.drained()
    assert served(node, uid) == second
    study = "1.2.826.0.1.3680043.8.498.1"
    node.command("export", study, tmp_path / "out", "--versions")
    exported = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(data.endswith(first) for data in exported)
    assert any(data.endswith(second) for data in exported)


def test_other_bytes_replace_if_so_configured(tmp_path: Path) -> None:
    with Node(tmp_path / "node", storage={"on_conflict": "replace"}) as node:
        uid = generate_uid()
        first, second = two_versions(uid)
        assert store(node, uid, first) == 0
        assert store(node, uid, second) == 0
        assert sha256(served(node, uid) or b"") == sha256(second)
        node.drained()
        assert store(node, uid, first) == 0
        assert served(node, uid) == first
        assert found(node.port) == [uid]


def test_the_log_names_no_patient(tmp_path: Path) -> None:
    with Node(tmp_path / "node") as node:
        name: dict[str, Any] = {
            "PatientName": "Zaphod^Beeblebrox",
            "PatientID": "HHGTTG-42",
            "PatientBirthDate": "19780308",
        }
        uid, data_set = image(1, **name)
        assert store(node, uid, encoded(data_set)) == 0
        assert store(node, uid, encoded(image(2, uid=uid, **name)[1])) == 0  # a conflict
        assert store(node, "1.2.3", encoded(data_set)) == MISMATCH
        cut = encoded(image(3, **name)[1])[:300]
        assert store(node, generate_uid(), cut) in (0, MISMATCH)
        for level, key in [
            ("PATIENT ", element(0x10, 0x20, "LO", "HHGTTG-42 ")),
            ("STUDY ", element(0x10, 0x10, "PN", "Zaphod^Beeblebrox ")),
            ("STUDY ", element(0x10, 0x20, "LO", "HHGTTG-42 ")),
            ("STUDY ", element(0x10, 0x30, "DA", "1978-03-08Zaphod")),
        ]:
            for sop_class, field in ((STUDY_FIND, 0x20), (STUDY_GET, 0x10)):
                with Wire(node.port) as wire:
                    wire.associate([(sop_class, [EXPLICIT])])
                    request = query_rq(sop_class, field, 1)
                    wire.send(wire.message(1, request, element(8, 0x52, "CS", level) + key))
                    wire.read_message()
        node.drained()
        assert wait_for(lambda: len(node.events("store")) >= 4)
        log = node.log_text()
        for secret in ("Zaphod", "Beeblebrox", "HHGTTG", "19780308", "1978-03-08"):
            assert secret not in log, [line for line in log.splitlines() if secret in line]
