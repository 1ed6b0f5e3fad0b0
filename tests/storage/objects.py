"""Small data sets, an archive in a folder, and instances in it."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dcmpress.storage.archive import Archive, ArchiveSettings
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.elements import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.pipeline import CompressionRule, Pipeline, PipelineSettings
from dcmpress.storage.spool import Sender

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
SENDER = Sender("SCANNER", "DCMPRESS", "192.0.2.1")


def encoded(data_set: Dataset, transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    """Return a data set in one of the three native transfer syntaxes."""
    out = DicomBytesIO()
    out.is_implicit_VR = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
    out.is_little_endian = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    write_dataset(out, data_set)
    assert isinstance(out, io.BytesIO | DicomBytesIO)
    return bytes(out.getvalue())


def picture(rows: int = 32, columns: int = 40, frames: int = 1, seed: int = 0) -> NDArray[np.uint16]:
    """Return frames that look a little like an image: a smooth field that drifts, and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    waves = [900 + 400 * np.sin((x + k) / 7) * np.cos((y - k) / 9) for k in range(frames)]
    return (np.stack(waves) + rng.normal(0, 6, (frames, rows, columns))).astype(np.uint16)


def image(
    number: int = 1,
    pixels: NDArray[Any] | None = None,
    *,
    series: str = "1.2.826.0.1.3680043.10.1.2",
    **attributes: Any,
) -> Dataset:
    """Return an MR image of a test series, its instance UID made from series and `number`."""
    pixels = picture(seed=number) if pixels is None else pixels
    data_set = Dataset()
    data_set.SOPClassUID = MR_IMAGE
    data_set.SOPInstanceUID = f"{series}.{number}"
    data_set.Modality = "MR"
    data_set.PatientName = "Test^Image"
    data_set.PatientID = "4711"
    data_set.StudyInstanceUID = "1.2.826.0.1.3680043.10.1"
    data_set.SeriesInstanceUID = series
    data_set.InstanceNumber = number
    data_set.ImagePositionPatient = [0, 0, 2 * number]
    data_set.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data_set.SamplesPerPixel = 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    if len(pixels) > 1:
        data_set.NumberOfFrames = len(pixels)
    data_set.Rows, data_set.Columns = pixels.shape[1:3]
    data_set.BitsAllocated = pixels.dtype.itemsize * 8
    data_set.BitsStored = data_set.BitsAllocated
    data_set.HighBit = data_set.BitsAllocated - 1
    data_set.PixelRepresentation = int(pixels.dtype.kind == "i")
    data_set.add_new(0x7FE00010, "OW", pixels.tobytes())
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    return data_set


def open_archive(folder: Path, **settings: Any) -> Archive:
    """Return an archive in `folder`."""
    return Archive(ArchiveSettings(root=folder, **settings))


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Archive]:
    """Lend an archive in `folder`."""
    archive = open_archive(folder, **settings)
    try:
        yield archive
    finally:
        archive.close()


def receive(
    archive: Archive,
    data: bytes,
    sop_instance_uid: str,
    transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN,
    sop_class_uid: str = MR_IMAGE,
) -> str:
    """Take the bytes of a data set in, as an association would; return the outcome."""
    incoming = archive.begin(FileMeta(sop_class_uid, sop_instance_uid, transfer_syntax_uid), SENDER)
    try:
        for at in range(0, len(data), 1 << 16):
            incoming.write(data[at : at + (1 << 16)])
        return archive.commit(incoming).outcome
    except BaseException:
        incoming.abandon()
        raise


def receive_series(archive: Archive, n: int = 4, **attributes: Any) -> dict[str, bytes]:
    """Take a series of `n` images in; return UID -> data set."""
    sent = {}
    for number in range(1, n + 1):
        data_set = image(number, **attributes)
        data = encoded(data_set)
        receive(archive, data, data_set.SOPInstanceUID)
        sent[str(data_set.SOPInstanceUID)] = data
    return sent


def served(archive: Archive, sop_instance_uid: str) -> bytes:
    """Return the bytes that the archive gives out."""
    return b"".join(archive.open(sop_instance_uid).pieces())


def assert_serves(archive: Archive, sent: dict[str, bytes]) -> None:
    """Check that every instance comes back byte for byte."""
    for uid, data in sent.items():
        assert hashlib.sha256(served(archive, uid)).digest() == hashlib.sha256(data).digest(), uid


def compressed(archive: Archive, codec: str = "zstd", **settings: Any) -> Pipeline:
    """Compress everything in the spool; return the pipeline that did, for its counters."""
    rule = CompressionRule(CodecChoice(codec))
    pipeline = Pipeline(archive, PipelineSettings(rules=(rule,), **settings))
    pipeline.drain()
    return pipeline


def blob_files(archive: Archive) -> list[Path]:
    """Return the files of all blobs."""
    return [archive.blobs.path(name) for name in archive.blobs.names()]
