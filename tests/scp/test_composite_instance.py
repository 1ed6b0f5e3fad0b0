"""Composite Instance Root Retrieve, and retrieve without bulk data (PS3.4 annexes Y and Z)."""

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.corpus_files import data_set, part10_files
from tests.nodes import Node, send_unchanged
from tests.scp.instances import encoded, image, instances
from tests.scp.receivers import Destination, Retrieved, at_level, get, image_level, move
from tests.scp.wire import EXPLICIT, IMPLICIT, MR, Wire

ROOT_MOVE, ROOT_GET = "1.2.840.10008.5.1.4.1.2.4.2", "1.2.840.10008.5.1.4.1.2.4.3"
BARE_GET = "1.2.840.10008.5.1.4.1.2.5.3"
SUCCESS, MISMATCH, NO_NEW_INSTANCE = 0x0000, 0xA900, 0xAA01
PIXEL_DATA, WAVEFORM_SEQUENCE, WAVEFORM_DATA = 0x7FE00010, 0x54000100, 0x54001010

IMAGES = instances(5)
DECORATED_UID, DECORATED = image(7, PatientComments="kept")
_icon = image(8, size=4)[1]
DECORATED.IconImageSequence = Sequence([_icon])
for _group in (0x6000, 0x6002, 0x60FE):
    DECORATED.add_new(_group << 16 | 0x3000, "OW", bytes(128))
    DECORATED.add_new(_group << 16 | 0x0010, "US", 32)
DECORATED.add_new(0x56000020, "OF", bytes(64))
BULK = {PIXEL_DATA, 0x56000020, 0x60003000, 0x60023000, 0x60FE3000}


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with Destination([(MR, EXPLICIT)]) as running:
        yield running


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, destination: Destination) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("composite")
    with Node(folder, dicom={"peers": {"dest": destination.peer}}) as running:
        with Wire(running.port) as wire:
            wire.associate([(MR, [EXPLICIT])])
            for uid, data in {**IMAGES, DECORATED_UID: encoded(DECORATED)}.items():
                assert wire.store(1, MR, uid, data) == 0
            wire.release()
        yield running


def test_get_by_the_instance_uid_alone(node: Node) -> None:
    got = get(node.port, [(MR, EXPLICIT)], image_level(list(IMAGES)[:3]), model=ROOT_GET)
    assert got.final.Status == SUCCESS
    assert got.data_sets == dict(list(IMAGES.items())[:3])


def test_move_by_the_instance_uid_alone(node: Node, destination: Destination) -> None:
    destination.reset()
    moved = move(node.port, "DEST", image_level(list(IMAGES)), model=ROOT_MOVE)
    assert moved.final.Status == SUCCESS
    assert destination.received.data_sets == IMAGES


@pytest.mark.parametrize(
    ("level", "keys", "model", "status"),
    [
        ("STUDY", {"StudyInstanceUID": "1.2"}, ROOT_GET, MISMATCH),
        ("IMAGE", {}, ROOT_GET, MISMATCH),
        ("FRAME", {"SOPInstanceUID": "1.2", "SimpleFrameList": [1]}, ROOT_GET, NO_NEW_INSTANCE),
        ("FRAME", {"SOPInstanceUID": "1.2", "SimpleFrameList": [1]}, BARE_GET, MISMATCH),
        ("SERIES", {"SeriesInstanceUID": "1.2"}, BARE_GET, MISMATCH),
    ],
)
def test_other_levels(node: Node, level: str, keys: dict[str, object], model: str, status: int) -> None:
    assert get(node.port, [(MR, EXPLICIT)], at_level(level, **keys), model=model).final.Status == status


def bare(node: Node, uid: str, sop_class: str, syntax: str) -> Retrieved:
    return get(node.port, [(sop_class, syntax)], image_level([uid]), model=BARE_GET)


@pytest.mark.parametrize("settled", [False, True])
def test_what_is_left_without_bulk_data_is_as_it_was(node: Node, settled: bool) -> None:
    if settled:
        node.drained()
    expected = Dataset({e.tag: e for e in DECORATED if int(e.tag) not in BULK})
    assert expected.IconImageSequence[0].PixelData  # the icon's own stays
    for syntax in (EXPLICIT, IMPLICIT):
        got = bare(node, DECORATED_UID, MR, syntax)
        assert got.final.Status == SUCCESS
        assert got.counts == (1, 0, 0)
        assert got.data_sets[DECORATED_UID] == encoded(expected, syntax)


def of_each_syntax() -> list[Path]:
    """Return a file of the corpus for each transfer syntax, and one with waveforms."""
    smallest: dict[str, Path] = {}
    for path in sorted(part10_files(), key=lambda path: (path.stat().st_size, path)):
        meta, data = data_set(path)
        kind = "waveform" if b"\x00\x54\x00\x01SQ" in data else meta.transfer_syntax_uid
        header = dcmread(path, force=True, stop_before_pixels=True)
        if header.get("SOPInstanceUID") == meta.sop_instance_uid and (
            header.get("SOPClassUID") == meta.sop_class_uid and header.get("PixelData", kind)
        ):
            smallest.setdefault(kind, path)
    return list(smallest.values())


def test_every_transfer_syntax_of_the_corpus(tmp_path_factory: pytest.TempPathFactory) -> None:
    files = of_each_syntax()
    with Node(tmp_path_factory.mktemp("bare"), pipeline={"settle_seconds": 3600}) as node:
        assert set(send_unchanged(node.port, files).values()) == {SUCCESS}
        for path in files:
            meta, _ = data_set(path)
            for syntax in dict.fromkeys([meta.transfer_syntax_uid, EXPLICIT]):
                got = bare(node, meta.sop_instance_uid, meta.sop_class_uid, syntax)
                assert got.final.Status == SUCCESS, path
                left = got.data_sets[meta.sop_instance_uid]
                head = b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, 8 + len(even(syntax)))
                head += struct.pack("<HH2sH", 2, 0x10, b"UI", len(even(syntax))) + even(syntax)
                received = dcmread(BytesIO(bytes(128) + head + left), force=True)
                original = dcmread(path, force=True)
                assert PIXEL_DATA not in received
                assert tags(received) == {t for t in tags(original) if not is_bulk(t)}, path
                for item in received.get("WaveformSequence", []):
                    assert WAVEFORM_DATA not in item
                    assert item.WaveformBitsAllocated


def tags(content: Dataset) -> set[int]:
    """Return the tags of a data set, its group lengths aside."""
    return {int(tag) for tag in set(content.keys()) if int(tag) & 0xFFFF}


def is_bulk(tag: int) -> bool:
    return tag in BULK | {0x7FE00008, 0x7FE00009} or tag & 0xFF00FFFF in (0x60003000, 0x50003000)


def even(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)
