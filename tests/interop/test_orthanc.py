"""Orthanc as the other side, both ways: it sends to us, queries us and moves from us; we move to it.

Orthanc reads each data set and writes it anew (lengths of sequences, group lengths, padding), so what went
through it is compared element by element; pixel data in frames of the same encoding, byte by byte. Its
release in Debian has no C-GET as SCU: there is no way to make it get from us.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.filewriter import write_file_meta_info
from pydicom.multival import MultiValue

from dcmpress.storage.part10 import read_part10
from tests.corpus_files import data_set, part10_files
from tests.interop.orthanc import Orthanc, RefusedByOrthancError
from tests.nodes import Node, send_unchanged
from tests.scp.receivers import get, image_level
from tests.scp.wire import wait_for

DATA_SET_TRAILING_PADDING = 0xFFFCFFFC
UIDS = ("SOPClassUID", "SOPInstanceUID")
DEFLATED_FRAMES, JPEG_XL = "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.4.111"
UNKNOWN_TO_ORTHANC = {DEFLATED_FRAMES, *(f"1.2.840.10008.1.2.4.{n}" for n in (201, 203)), JPEG_XL}
"""Transfer syntaxes of the corpus that are younger than its DCMTK: it neither sends nor accepts them."""


def identifying(path: Path) -> bool:
    """Tell whether a file has what Orthanc wants of every instance, and meta that agrees with it.

    From UIDs of VR UN Orthanc makes the request's SOP UIDs by printing the bytes, "31" for "1": A900.
    """
    meta, _ = data_set(path)
    content = dcmread(path, force=True, stop_before_pixels=True)
    if any(element.VR == "UN" for element in map(content.get_item, UIDS) if element is not None):
        return False
    return (
        all(content.get(keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID"))
        and content.get("SOPInstanceUID") == meta.sop_instance_uid
        and content.get("SOPClassUID") == meta.sop_class_uid
    )


def chosen(thorough: bool) -> list[Path]:
    """Return the files to exchange: all, or a small one of each transfer syntax and SOP class.

    Of two files with one UID the last counts, as it does for both peers.
    """
    usable = {data_set(path)[0].sop_instance_uid: path for path in part10_files() if identifying(path)}
    if thorough:
        return sorted(usable.values())
    smallest: dict[tuple[str, str], Path] = {}
    for path in sorted(usable.values(), key=lambda path: (path.stat().st_size, path)):
        if path.stat().st_size > 4 << 20:
            break
        meta, _ = data_set(path)
        smallest.setdefault((meta.transfer_syntax_uid, meta.sop_class_uid), path)
    return sorted(smallest.values())


@dataclass
class Peers:
    """A node and an Orthanc that know each other, and the files that are exchanged."""

    node: Node
    orthanc: Orthanc
    files: list[Path]

    @property
    def uids(self) -> dict[str, Path]:
        """SOP Instance UID -> file."""
        return {data_set(path)[0].sop_instance_uid: path for path in self.files}


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.long)])
def peers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    folder = tmp_path_factory.mktemp("orthanc")
    orthanc = Orthanc(folder / "orthanc")
    with Node(folder / "node", dicom={"peers": {"orthanc": orthanc.peer}}) as node:
        try:
            yield Peers(node, orthanc.start(node.port), chosen(request.param))
        finally:
            orthanc.stop()


def read(file: bytes) -> tuple[str, Dataset]:
    """Return (transfer syntax, data set) of a file."""
    content = dcmread(BytesIO(file), force=True)
    return str(content.file_meta.TransferSyntaxUID), content


def as_file(data: bytes, syntax: str) -> bytes:
    """Return a data set as a file with as much meta information as reading takes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=False)
    return bytes(128) + b"DICM" + buffer.getvalue() + data


def differences(ours: Dataset, theirs: Dataset, path: str = "") -> list[str]:
    """Return where two data sets say different things; how their lengths are written does not count."""
    found = []
    tags = {int(tag) for tag in (*ours.keys(), *theirs.keys())}
    for tag in sorted(tags):
        if tag & 0xFFFF == 0 or tag == DATA_SET_TRAILING_PADDING:
            continue
        where = f"{path}{tag:08X}"
        if tag not in ours or tag not in theirs:
            found.append(where)
            continue
        mine, other = ours[tag], theirs[tag]
        if mine.VR == "SQ" and other.VR == "SQ":
            if len(mine.value) != len(other.value):
                found.append(where)
            for number, (a, b) in enumerate(zip(mine.value, other.value, strict=False)):
                found += differences(a, b, f"{where}[{number}].")
        elif comparable(mine.value) != comparable(other.value):
            found.append(where)
    return found


def comparable(value: object) -> object:
    """Return a value without what padding adds to it."""
    if isinstance(value, MultiValue | list):
        return [comparable(one) for one in value]
    if isinstance(value, bytes):
        return value.rstrip(b"\0 ")
    return str(value if value is not None else "").rstrip("\0 ")


def decoded(content: Dataset, syntax: str) -> NDArray[Any]:
    """Return the samples of what has no decoder in pydicom yet."""
    frames = generate_frames(content.PixelData, number_of_frames=int(content.get("NumberOfFrames") or 1))
    if syntax != DEFLATED_FRAMES:
        by = imagecodecs.jpegxl_decode if syntax == JPEG_XL else imagecodecs.jpeg2k_decode
        return np.stack([np.asarray(by(frame)) for frame in frames]).squeeze()
    assert content.BitsAllocated == 1
    count = content.Rows * content.Columns
    inflated = (np.frombuffer(zlib.decompress(frame, -zlib.MAX_WBITS), np.uint8) for frame in frames)
    bits = [np.unpackbits(packed, count=count, bitorder="little") for packed in inflated]
    return np.stack(bits).reshape(-1, content.Rows, content.Columns).squeeze()


def same(original: bytes, other: bytes, name: str) -> None:
    """Check that two files say the same: every element, and the pixels where the encodings differ."""
    syntax, ours = read(original)
    other_syntax, theirs = read(other)
    if syntax == other_syntax:
        assert differences(ours, theirs) == [], name
        return
    assert syntax in UNKNOWN_TO_ORTHANC, name
    assert np.array_equal(decoded(ours, syntax), theirs.pixel_array), name
    assert ours.SOPInstanceUID == theirs.SOPInstanceUID, name


def test_orthanc_sends_to_us(peers: Peers) -> None:
    """What Orthanc sends lies in the node, first in the spool and then compressed, exactly as it came."""
    orthanc, node = peers.orthanc, peers.node
    sent: dict[str, bytes] = {}
    unsent: dict[str, str] = {}
    for uid, path in peers.uids.items():
        name = orthanc.upload(path)
        try:
            orthanc.json("/modalities/node/store", {"Resources": [name], "Synchronous": True})
            sent[uid] = path.read_bytes()
        except RefusedByOrthancError:
            unsent[uid] = data_set(path)[0].transfer_syntax_uid
    assert set(unsent.values()) <= UNKNOWN_TO_ORTHANC  # else Orthanc says that the node refused it
    stored = [event for event in node.events("store") if event["calling_ae"] == "ORTHANC"]
    assert {event["status"] for event in stored} == {"0000"}
    orthanc.clear()
    for settled in (False, True):
        if settled:
            node.drained()
        compared = compare_kept(node, sent)
        assert compared == set(sent)


def compare_kept(node: Node, expected: dict[str, bytes]) -> set[str]:
    """Get instances from the node in the syntax they came in; return the UIDs of those that are the same."""
    pairs = {}
    for uid, file in expected.items():
        meta, _ = read_part10(file)
        assert meta is not None
        pairs[uid] = (meta.sop_class_uid, meta.transfer_syntax_uid)
    compared = set()
    proposals = sorted(set(pairs.values()))
    for start in range(0, len(proposals), 100):
        part = set(proposals[start : start + 100])
        uids = [uid for uid, pair in pairs.items() if pair in part]
        got = get(node.port, part, image_level(uids))
        assert got.final.Status == 0, got.failed
        for uid, data in got.data_sets.items():
            same(expected[uid], as_file(data, got.syntaxes[uid]), uid)
            compared.add(uid)
    return compared


def kept_exactly(peers: Peers) -> list[Path]:
    """Give the node every file's own bytes, and return the files."""
    statuses = send_unchanged(peers.node.port, peers.files)
    assert set(statuses.values()) == {0}
    return peers.files


def test_orthanc_queries_us_at_every_level(peers: Peers) -> None:
    orthanc = peers.orthanc
    files = kept_exactly(peers)
    example = dcmread(files[-1], force=True, stop_before_pixels=True)
    contents = [dcmread(path, force=True, stop_before_pixels=True) for path in files]
    keys = {
        "Patient": {"PatientID": example.PatientID},
        "Study": {"StudyInstanceUID": example.StudyInstanceUID},
        "Series": {
            "StudyInstanceUID": example.StudyInstanceUID,
            "SeriesInstanceUID": example.SeriesInstanceUID,
        },
        "Instance": {
            "StudyInstanceUID": example.StudyInstanceUID,
            "SeriesInstanceUID": example.SeriesInstanceUID,
            "SOPInstanceUID": example.SOPInstanceUID,
        },
    }
    for level, asked in keys.items():
        answers = answers_of(orthanc, level, asked)
        assert len(answers) == 1, level
        for keyword, value in asked.items():
            assert answers[0][keyword] == value
    studies = answers_of(orthanc, "Study", {"StudyInstanceUID": "", "PatientName": "", "StudyDate": ""})
    assert {answer["StudyInstanceUID"] for answer in studies} == {c.StudyInstanceUID for c in contents}
    dated = answers_of(orthanc, "Study", {"StudyInstanceUID": "", "StudyDate": "20040101-20041231"})
    assert {answer["StudyInstanceUID"] for answer in dated} == {
        c.StudyInstanceUID for c in contents if str(c.get("StudyDate", "")).startswith("2004")
    }


def answers_of(orthanc: Orthanc, level: str, keys: dict[str, str]) -> list[dict[str, str]]:
    """Let Orthanc query the node; return keyword -> value of each answer."""
    query = orthanc.json("/modalities/node/query", {"Level": level, "Query": keys})["ID"]
    found = orthanc.json(f"/queries/{query}/answers?expand&simplify")
    return list(found)


@pytest.mark.parametrize("settled", [False, True])
def test_orthanc_moves_from_us_to_itself(peers: Peers, settled: bool) -> None:
    """C-MOVE: Orthanc asks, and is the destination; what it keeps then is what the node was given."""
    orthanc, node = peers.orthanc, peers.node
    files = kept_exactly(peers)
    if settled:
        node.drained()
    orthanc.clear()
    before = len(node.events("retrieve finished"))
    query = orthanc.json("/modalities/node/query", {"Level": "Study", "Query": {"StudyInstanceUID": ""}})
    answers = orthanc.json(f"/queries/{query['ID']}/answers")
    orthanc.json(f"/queries/{query['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    received = orthanc.files()
    assert set(received) == set(peers.uids)
    wanted = before + len(answers)  # the last is logged after its response
    assert wait_for(lambda: len(node.events("retrieve finished")) >= wanted)
    finished = node.events("retrieve finished")[before:]
    assert len(finished) == len(answers)
    assert {event["status"] for event in finished} == {"0000"}
    for path in files:
        same(path.read_bytes(), received[data_set(path)[0].sop_instance_uid], path.name)
