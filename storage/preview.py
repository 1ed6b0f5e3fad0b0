"""Lossy previews: derived instances beside the lossless original, made only where a rule asks for them by name.

A preview is an instance of its own in a series of its own, marked as PS3.3 C.7.6.1.1.5 demands: Lossy Image
Compression 01 with ratio and method, Image Type DERIVED, what was done, and the instance it was made from.
The samples are what the lossy codec leaves of the original's; they are stored like any others.
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence as DicomSequence

from dcmpress.codecs.registry import get_codec
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import ConversionError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.render import parse
from dcmpress.storage.spool import Sender, Spool, SpoolEntry
from dcmpress.storage.transcode import encode

PREVIEW_AE = "DCMPRESS-PREVIEW"
"""Stands for the sender of a preview."""

METHODS = {"spiht-lossy": "SPIHT", "wavelet-threshold": "WAVELET_THRESH"}
"""Codec -> (0028,2114) Lossy Image Compression Method: the standard has no term for these, and allows others."""

_NOT_COPIED = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "IconImageSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
"""What would no longer be true of the samples."""


def derived_uid(source_uid: str, choice: CodecChoice) -> str:
    """Return the UID of what is derived from `source_uid`: the same each time, and no other's (PS3.5 B.2)."""
    what = f"{source_uid} {choice.codec} {json.dumps(choice.parameters, sort_keys=True)}"
    digest = hashlib.sha256(what.encode()).digest()[:16]
    # An RFC 9562 UUID of version 8: a digest of our own making.
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | 0x8 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return f"2.25.{number}"


def derive(data: bytes, transfer_syntax_uid: str, choice: CodecChoice) -> tuple[FileMeta, bytes]:
    """Return the preview of an encoded data set, as (file meta, data set in explicit VR little endian).

    Raises
    ------
    ConversionError
        If there are no samples that the codec takes.
    """
    source = parse(data, transfer_syntax_uid)
    if "PixelData" not in source:
        raise ConversionError("no pixel data")
    try:
        samples = pixel_array(source, raw=True)
    except Exception as error:  # pydicom and its decoders raise whatever the data provokes
        raise ConversionError(f"cannot be decoded: {error}") from error
    frames = _frames(samples, source)
    codec = get_codec(choice.codec, **choice.parameters)
    try:
        stream = codec.encode(frames)
        left = codec.decode(stream)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    del source["PixelData"]
    if codec.lossless:
        raise ConversionError(f"{choice.codec} is lossless: it makes no preview")
    preview = _marked(source, choice, frames.nbytes / len(stream))
    _put_samples(preview, _within_range(left, source))
    meta = FileMeta(str(preview.SOPClassUID), str(preview.SOPInstanceUID), EXPLICIT_VR_LITTLE_ENDIAN)
    return meta, encode(preview, EXPLICIT_VR_LITTLE_ENDIAN)


def _frames(samples: NDArray[Any], source: Dataset) -> NDArray[Any]:
    """Return samples as (frames, rows, columns[, samples])."""
    colour = int(source.get("SamplesPerPixel") or 1) > 1
    n_axes = 4 if colour else 3
    return samples[np.newaxis] if samples.ndim == n_axes - 1 else samples


def _within_range(frames: NDArray[Any], source: Dataset) -> NDArray[Any]:
    """Return frames without what overshoots the stored bits."""
    bits = int(source.get("BitsStored") or 8 * frames.dtype.itemsize)
    if frames.dtype.kind == "i":
        return np.clip(frames, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return np.clip(frames, 0, (1 << bits) - 1)


def _marked(source: Dataset, choice: CodecChoice, ratio: float) -> Dataset:
    preview = copy.deepcopy(source)
    for keyword in _NOT_COPIED:
        if keyword in preview:
            del preview[keyword]
    preview.SOPInstanceUID = derived_uid(str(source.SOPInstanceUID), choice)
    if "SeriesInstanceUID" in source:
        preview.SeriesInstanceUID = derived_uid(str(source.SeriesInstanceUID), choice)
    preview.SeriesDescription = f"{source.get('SeriesDescription') or ''} preview".strip()[:64]
    preview.ImageType = ["DERIVED", *list(source.get("ImageType") or ["", "PRIMARY"])[1:]]
    preview.LossyImageCompression = "01"
    preview.LossyImageCompressionRatio = [*_listed(source, "LossyImageCompressionRatio"), f"{ratio:.4g}"]
    method = METHODS.get(choice.codec, choice.codec.upper().replace("-", "_")[:16])
    preview.LossyImageCompressionMethod = [*_listed(source, "LossyImageCompressionMethod"), method]
    parameters = ", ".join(f"{name} {value}" for name, value in choice.parameters.items())
    preview.DerivationDescription = f"Lossy compression by {choice.codec} {parameters}".strip()[:1024]
    preview.DerivationCodeSequence = DicomSequence([_code("113040", "Lossy Compression")])
    origin = Dataset()
    origin.ReferencedSOPClassUID = source.SOPClassUID
    origin.ReferencedSOPInstanceUID = source.SOPInstanceUID
    origin.PurposeOfReferenceCodeSequence = DicomSequence([_code("121320", "Uncompressed predecessor")])
    preview.SourceImageSequence = DicomSequence([origin])
    return preview


def _listed(source: Dataset, keyword: str) -> list[Any]:
    value = source.get(keyword)
    if value in (None, ""):
        return []
    return [value] if isinstance(value, str | float | int) else list(value)


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = "DCM"
    code.CodeMeaning = meaning
    return code


def _put_samples(preview: Dataset, frames: NDArray[Any]) -> None:
    raw = np.ascontiguousarray(frames).astype(frames.dtype.newbyteorder("<"), copy=False).tobytes()
    bits = frames.dtype.itemsize * 8
    preview.BitsAllocated = bits
    if frames.ndim == 4:
        preview.PlanarConfiguration = 0
    preview.add_new(0x7FE00010, "OW" if bits > 8 else "OB", raw + b"\0" * (len(raw) % 2))
    preview["PixelData"].is_undefined_length = False


def write_preview(blob: str, number: int, choice: CodecChoice, spool_folder: str, reserve: int) -> SpoolEntry:
    """Derive the preview of an instance of a blob into the spool; return its entry. Runs in a worker.

    Raises
    ------
    ConversionError, DamagedError, NoSpaceError, OSError
    """
    with InstanceReader(Path(blob)) as reader:
        instance = reader.blob.index.instances[number]
        meta, data = derive(reader.read(number), instance.transfer_syntax_uid, choice)
    spool = Spool(Path(spool_folder), reserve)
    try:
        writer = spool.begin(meta, Sender(calling_ae=PREVIEW_AE))
        try:
            writer.write(data)
            return writer.finish()
        except BaseException:
            writer.abandon()
            raise
    finally:
        spool.close()
