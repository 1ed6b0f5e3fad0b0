"""A receiver that takes native syntaxes only gets every compressed image of the corpus, pixel for pixel."""

from collections.abc import Callable, Iterator
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

from tests.corpus_files import data_set, part10_files
from tests.nodes import Node, dcmtk, send_unchanged
from tests.scp.receivers import get, image_level
from tests.scp.wire import EXPLICIT, IMPLICIT

PREFIX = "1.2.840.10008.1.2."
BIG_ENDIAN, DEFLATED = PREFIX + "2", PREFIX + "1.99"
BY_DCMTK = {
    PREFIX + "5": "dcmdrle",
    **dict.fromkeys([PREFIX + f"4.{n}" for n in (50, 51, 53, 55, 57, 70)], "dcmdjpeg"),
    **dict.fromkeys([PREFIX + f"4.{n}" for n in (80, 81)], "dcmdjpls"),
    BIG_ENDIAN: "dcmconv",
    DEFLATED: "dcmconv",
}
LOSSY = {PREFIX + f"4.{n}": 2 for n in (50, 51, 53, 55)}
"""Transfer syntax -> how far two decoders' inverse cosine transforms may round apart."""
BY_IMAGECODECS: dict[str, Callable[[bytes], Any]] = {
    PREFIX + "4.90": imagecodecs.jpeg2k_decode,
    PREFIX + "4.91": imagecodecs.jpeg2k_decode,
    PREFIX + "4.201": imagecodecs.htj2k_decode,
    PREFIX + "4.203": imagecodecs.jpeg2k_decode,  # htj2k_decode wraps around where this one clips
    PREFIX + "4.111": imagecodecs.jpegxl_decode,
}
NO_IMAGE = "JPEG2000-embedded-sequence-delimiter.dcm"
"""Its code stream ends in the middle of the main header."""

FILES = [
    path
    for path in part10_files()
    if data_set(path)[0].transfer_syntax_uid not in (IMPLICIT, EXPLICIT) and data_set(path)[0].sop_class_uid
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    waiting = {"settle_seconds": 3600}
    with Node(tmp_path_factory.mktemp("conversion"), pipeline=waiting) as running:
        statuses = send_unchanged(running.port, FILES)
        assert all(status in (0, 0xA900) for status in statuses.values())  # A900: file meta that is wrong
        yield running


def samples(data: bytes | Path, syntax: str = EXPLICIT) -> tuple[NDArray[np.int64], Dataset]:
    """Return the stored samples of a native data set, whatever their colour space."""
    dataset = dcmread(data if isinstance(data, Path) else BytesIO(data), force=True)
    if not isinstance(data, Path):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    from pydicom.pixels import get_decoder

    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    array, _ = decoder.as_array(dataset, raw=True)
    return array.astype(np.int64), dataset


def independent(path: Path, folder: Path) -> NDArray[np.int64] | None:
    """Return the samples as another decoder sees them; None if there is none for this file."""
    syntax = data_set(path)[0].transfer_syntax_uid
    original = dcmread(path, force=True)
    if "PixelData" not in original or original.BitsAllocated == 1:
        return None
    if syntax in BY_DCMTK:
        out = folder / "out.dcm"
        out.unlink(missing_ok=True)
        done = dcmtk(
            BY_DCMTK[syntax], *(["+te"] if BY_DCMTK[syntax] == "dcmconv" else []), path, out, check=False
        )
        return samples(out)[0] if done.returncode == 0 else None
    if syntax in BY_IMAGECODECS:
        count = int(original.get("NumberOfFrames") or 1)
        frames = generate_frames(original.PixelData, number_of_frames=count)
        try:
            decoded = [np.asarray(BY_IMAGECODECS[syntax](frame)) for frame in frames]
        except RuntimeError:
            return None
        return np.stack(decoded).squeeze().astype(np.int64)
    return None


def test_each_compressed_image_converted(node: Node, tmp_path: Path) -> None:
    stored = {}
    for path in FILES:  # of two files with one UID the last is served
        meta, _ = data_set(path)
        stored[meta.sop_instance_uid] = path
    uids = sorted(stored)
    classes = {data_set(path)[0].sop_class_uid for path in FILES}
    explicit = get(node.port, [(c, EXPLICIT) for c in classes], image_level(uids))
    implicit = get(node.port, [(c, IMPLICIT) for c in classes], image_level(uids))
    unconverted = [stored[uid].name for uid in explicit.failed]
    assert unconverted == [NO_IMAGE]
    assert implicit.failed == explicit.failed
    assert set(explicit.syntaxes.values()) == {EXPLICIT}
    assert set(implicit.syntaxes.values()) == {IMPLICIT}

    compared = set()
    for uid, data in explicit.data_sets.items():
        path = stored[uid]
        if not Path(path).exists() or "PixelData" not in dcmread(path, force=True):
            continue
        mine, converted = samples(data)
        again, _ = samples(implicit.data_sets[uid], IMPLICIT)
        np.testing.assert_array_equal(mine, again, err_msg=path.name)
        original = dcmread(path, force=True)
        for keyword in ("Rows", "Columns", "BitsStored", "PixelRepresentation", "SOPInstanceUID"):
            assert converted.get(keyword) == original.get(keyword), (path.name, keyword)
        other = independent(path, tmp_path)
        if other is None:
            continue
        syntax = data_set(path)[0].transfer_syntax_uid
        mask = 2 ** int(original.BitsStored) - 1
        apart = np.abs((mine & mask) - (other.reshape(mine.shape) & mask)).max()
        assert apart <= LOSSY.get(syntax, 0), (path.name, syntax, int(apart))
        compared.add(syntax)
    if len(FILES) > 50:  # the corpus is here
        assert compared >= {*BY_DCMTK, *BY_IMAGECODECS} - {PREFIX + "1.99"}
