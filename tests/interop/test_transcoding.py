"""A receiver that wants a compressed transfer syntax gets it, and other people's decoders see the same samples."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from dcmpress.storage.targets import COMPRESSED, NAMES, TARGETS
from tests.corpus_files import data_set, part10_files, series_files
from tests.interop.judges import judged, read, words
from tests.nodes import Node, dcmtk, free_port, send_unchanged
from tests.scp.receivers import Destination, Retrieved, at_level, get, image_level, move
from tests.scp.wire import EXPLICIT, IMPLICIT

KINDS = (
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration",
)  # fmt: skip
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "its code stream ends in the middle of the main header",
}


def with_pixels() -> dict[str, Path]:
    """Return SOP Instance UID -> file that has pixel data; of two with one UID the last is served.

    Files whose meta information belies their data set are not accepted.
    """
    found = {}
    for path in part10_files():
        meta, _ = data_set(path)
        header = dcmread(path, stop_before_pixels=True, force=True)
        uids = (header.get("SOPClassUID"), header.get("SOPInstanceUID"))
        if "BitsStored" in header and uids == (meta.sop_class_uid, meta.sop_instance_uid):
            found[meta.sop_instance_uid] = path
    return found


def representatives(files: dict[str, Path]) -> dict[str, Path]:
    """Return one small file of each kind of pixel data, and one in each transfer syntax."""
    kinds: dict[tuple[str, ...], str] = {}
    for uid, path in sorted(files.items(), key=lambda item: item[1].stat().st_size):
        header = dcmread(path, stop_before_pixels=True, force=True)
        several = int(header.get("NumberOfFrames") or 1) > 1
        for kind in ((data_set(path)[0].transfer_syntax_uid,), (several, *(header.get(k) for k in KINDS))):
            if path.stat().st_size < 600_000:
                kinds.setdefault(tuple(map(str, kind)), uid)
    return {uid: files[uid] for uid in sorted(set(kinds.values()))}


def expected(data: bytes, stored: str, native: bytes) -> NDArray[np.uint64]:
    """Return the samples of the original; `native` is what came of it as explicit VR little endian.

    That decoding has its own independent judges, in `test_conversion.py`.
    """
    own = stored in (EXPLICIT, IMPLICIT)
    return words(read(data, stored)) if own else words(read(native, EXPLICIT))


def check_all(node: Node, files: dict[str, Path], folder: Path) -> dict[str, int]:
    """Retrieve files in every compressed syntax and have them judged; return how many came in each."""
    uids = sorted(files)
    classes = {data_set(files[uid])[0].sop_class_uid for uid in uids}

    def fetch(syntax: str) -> Retrieved:
        return get(node.port, [(c, syntax) for c in classes], image_level(uids))

    native = fetch(EXPLICIT)
    counts = {}
    for target in COMPRESSED:
        got = fetch(target)
        assert sorted({*got.data_sets, *got.failed}) == uids
        assert got.counts == (len(got.data_sets), len(got.failed), 0)
        counts[target] = len(got.data_sets)
        for uid in got.failed:
            header = dcmread(files[uid], stop_before_pixels=True, force=True)
            assert header.BitsAllocated in (1, 32) or files[uid].name in REFUSED, (files[uid], target)
            assert node.event("instance not sent", sop_instance=uid)
        for uid, received in got.data_sets.items():
            meta, original = data_set(files[uid])
            if meta.transfer_syntax_uid == target:
                assert received == original
                continue
            wanted = expected(original, meta.transfer_syntax_uid, native.data_sets[uid])
            np.testing.assert_array_equal(
                judged(received, target, folder), wanted, err_msg=f"{files[uid].name} as {target}"
            )
            was, now = dcmread(files[uid], force=True), read(received, target)
            for keyword in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", *KINDS[:4]):
                assert now.get(keyword) == was.get(keyword), (files[uid].name, keyword)
            assert now.get("LossyImageCompression") in (was.get("LossyImageCompression"), "01")
    return counts


@pytest.fixture(scope="module")
def movescu_port() -> int:
    """Where movescu receives."""
    return free_port()


SERIES = series_files("CT-LungDxA0002")[:6]


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with Destination() as running:
        yield running


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, movescu_port: int, destination: Destination
) -> Iterator[Node]:
    peers = {
        "here": {"ae_title": "MOVESCU", "host": "127.0.0.1", "port": movescu_port},
        "far": {**destination.peer, "transfer_syntaxes": ["jpeg-xl", "1.2.840.10008.1.2.4.90"]},
        "own": {"ae_title": "GETTER", "host": "127.0.0.1", "port": 1},
    }
    waiting = {"settle_seconds": 3600}
    with Node(tmp_path_factory.mktemp("transcoding"), dicom={"peers": peers}, pipeline=waiting) as running:
        wanted = {*representatives(with_pixels()).values(), *SERIES}
        assert set(send_unchanged(running.port, wanted).values()) == {0}
        yield running


def test_one_image_of_each_kind_in_every_syntax(node: Node, tmp_path: Path) -> None:
    counts = check_all(node, representatives(with_pixels()), tmp_path)
    assert set(counts) == set(COMPRESSED)
    assert min(counts.values()) > 0


@pytest.mark.long
def test_every_image_of_the_corpus_in_every_syntax(tmp_path: Path) -> None:
    files = with_pixels()
    with Node(tmp_path / "node") as node:
        send_unchanged(node.port, files.values())
        node.settled(600)
        print(check_all(node, files, tmp_path))


BY_OPTION = {
    "+xs": "jpeg-lossless", "+xv": "jpeg-2000", "+xt": "jpeg-ls", "+xr": "rle", "+xd": "deflated",
    "+xi": "implicit", "+xe": "explicit",
}  # fmt: skip


def series_keys() -> list[str]:
    header = dcmread(SERIES[0], stop_before_pixels=True)
    keys = [
        "QueryRetrieveLevel=SERIES",
        f"StudyInstanceUID={header.StudyInstanceUID}",
        f"SeriesInstanceUID={header.SeriesInstanceUID}",
    ]
    return [part for key in keys for part in ("-k", key)]


def check_series(folder: Path, syntax: str, tmp_path: Path) -> None:
    """Check the files that one of DCMTK's programs has received."""
    received = {str(dcmread(path, force=True).SOPInstanceUID): path for path in folder.iterdir()}
    for path in SERIES:
        meta, original = data_set(path)
        came, data = data_set(received[meta.sop_instance_uid])
        assert came.transfer_syntax_uid == syntax
        if syntax in (EXPLICIT, IMPLICIT):
            seen = words(read(data, syntax))
        else:
            seen = judged(data, syntax, tmp_path)
        np.testing.assert_array_equal(seen, words(read(original, meta.transfer_syntax_uid)))


@pytest.mark.parametrize("option", [o for o in BY_OPTION if o != "+xi"])  # 3.6.7 proposes explicit for +xi
def test_getscu(node: Node, option: str, tmp_path: Path) -> None:
    """It proposes its preference and the uncompressed syntaxes in one context for each class."""
    folder = tmp_path / "received"
    folder.mkdir()
    dcmtk(
        "getscu", "-S", option, "+B", "-od", folder, "-aec", "DCMPRESS", *series_keys(), "127.0.0.1", str(node.port)
    )  # fmt: skip
    check_series(folder, NAMES[BY_OPTION[option]], tmp_path)


@pytest.mark.parametrize("option", BY_OPTION)
def test_movescu(node: Node, movescu_port: int, option: str, tmp_path: Path) -> None:
    """It accepts, of our contexts with one syntax each, what its option names and the uncompressed ones."""
    folder = tmp_path / "received"
    folder.mkdir()
    node.reload(dicom={"peers": {"here": {"transfer_syntaxes": [BY_OPTION[option]]}}})
    dcmtk(
        "movescu", "-S", option, "-od", folder, "-aec", "DCMPRESS", "+P", str(movescu_port), *series_keys(),
        "127.0.0.1", str(node.port),
    )  # fmt: skip
    check_series(folder, NAMES[BY_OPTION[option]], tmp_path)


def uids_and_classes() -> tuple[list[str], set[str]]:
    metas = [data_set(path)[0] for path in SERIES]
    return [meta.sop_instance_uid for meta in metas], {meta.sop_class_uid for meta in metas}


def test_a_peer_gets_what_the_configuration_says(node: Node, destination: Destination) -> None:
    uids, classes = uids_and_classes()
    for accepted, wanted in (
        (TARGETS, "jpeg-xl"),
        ([uid for uid in TARGETS if uid != NAMES["jpeg-xl"]], "jpeg-2000"),
        ([IMPLICIT, NAMES["rle"]], "implicit"),
        ([NAMES["rle"]], "rle"),
    ):
        destination.reset()
        destination.accept([(c, syntax) for c in classes for syntax in accepted])
        assert move(node.port, "DEST", image_level(uids)).counts == (len(uids), 0, 0)
        assert set(destination.received.syntaxes.values()) == {NAMES[wanted]}


def test_a_requestor_of_get_is_known_by_its_title(node: Node) -> None:
    uids, classes = uids_and_classes()
    pairs = [(c, syntax) for c in classes for syntax in TARGETS]
    stored = data_set(SERIES[0])[0].transfer_syntax_uid
    assert set(get(node.port, pairs, image_level(uids)).syntaxes.values()) == {stored}
    for listed in ("htj2k", "deflated", "stored"):
        node.reload(dicom={"peers": {"own": {"transfer_syntaxes": [listed, "jpeg-ls"]}}})
        got = get(node.port, pairs, image_level(uids))
        assert set(got.syntaxes.values()) == {NAMES.get(listed, stored)}
    node.reload(dicom={"peers": {"own": {"transfer_syntaxes": []}}, "transfer_syntaxes": ["rle"]})
    assert set(get(node.port, pairs, image_level(uids)).syntaxes.values()) == {NAMES["rle"]}
    node.reload(dicom={"transfer_syntaxes": []})


def test_what_cannot_be_compressed_comes_uncompressed(node: Node) -> None:
    """A preference never costs an instance, while the receiver takes something that works."""
    files = representatives(with_pixels())
    classes = {data_set(path)[0].sop_class_uid for path in files.values()}
    jpeg_ls = NAMES["jpeg-ls"]
    node.reload(dicom={"transfer_syntaxes": ["jpeg-ls"]})
    got = get(node.port, [(c, s) for c in classes for s in (jpeg_ls, EXPLICIT)], image_level(sorted(files)))
    node.reload(dicom={"transfer_syntaxes": []})
    assert {files[uid].name for uid in got.failed} <= set(REFUSED)
    assert set(got.syntaxes.values()) == {jpeg_ls, EXPLICIT}
    for uid, syntax in got.syntaxes.items():
        bits = dcmread(files[uid], stop_before_pixels=True, force=True).BitsAllocated
        assert (syntax == jpeg_ls) == (bits in (8, 16)), files[uid]


def test_the_bytes_are_the_same_each_time(node: Node) -> None:
    uids, classes = uids_and_classes()
    digests = []
    for _ in range(2):
        got = get(node.port, [(c, NAMES["jpeg-ls"]) for c in classes], at_level_series())
        digests.append({uid: hashlib.sha256(data).digest() for uid, data in got.data_sets.items()})
    assert digests[0] == digests[1]
    assert sorted(digests[0]) == sorted(uids)


def at_level_series() -> object:
    header = dcmread(SERIES[0], stop_before_pixels=True)
    return at_level(
        "SERIES", StudyInstanceUID=header.StudyInstanceUID, SeriesInstanceUID=header.SeriesInstanceUID
    )
