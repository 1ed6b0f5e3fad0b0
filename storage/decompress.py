"""Encapsulated pixel data turned into native pixel data, for receivers that take nothing else.

pydicom and the decoders that it finds (OpenJPEG, CharLS, GDCM) come first; what they do not take (JPEG of 12
bits, JPEG XL, deflated frames, frames of one bit) is decoded by imagecodecs. Whoever decoded: the result must
have exactly the bytes that the data set's own attributes ask for, or it is not given out.
"""

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from dcmpress.codecs.foreign import decode_foreign
from dcmpress.storage.elements import PIXEL_DATA
from dcmpress.storage.errors import ConversionError

_PREFIX = "1.2.840.10008.1.2."
_LOSSY_JPEG = frozenset({f"{_PREFIX}4.50", f"{_PREFIX}4.51"})
_FORMATS = {
    **dict.fromkeys([f"{_PREFIX}4.{n}" for n in (50, 51, 53, 55, 57, 70)], "jpeg"),
    **dict.fromkeys([f"{_PREFIX}4.{n}" for n in (80, 81)], "jpeg-ls"),
    **dict.fromkeys([f"{_PREFIX}4.{n}" for n in (90, 91, 201, 202, 203)], "jpeg-2000"),
    **dict.fromkeys([f"{_PREFIX}4.{n}" for n in (110, 111, 112)], "jpeg-xl"),
    f"{_PREFIX}8.1": "deflate",
}
_FORMATS_OF_BITS = {**_FORMATS, f"{_PREFIX}5": "run-length"}
"""With more bits a run-length frame is in byte planes, which pydicom puts together."""


def decompress(data_set: Dataset, transfer_syntax_uid: str) -> None:
    """Replace the encapsulated pixel data of a data set by native pixel data, samples interleaved.

    Colours stay in the space that they are stored in, except where the codec itself has transformed them
    (JPEG 2000) and for lossy JPEG, whose decoders give RGB.

    Raises
    ------
    ConversionError
        If nothing here can decode it, or what comes out is not what the attributes describe.
    """
    problem = "frames of one bit"
    if data_set.BitsAllocated > 1:
        try:
            _by_pydicom(data_set, transfer_syntax_uid)
            return
        except Exception as error:  # its decoders raise whatever the data provokes
            problem = str(error)
    try:
        _by_ourselves(data_set, transfer_syntax_uid)
    except Exception as error:
        raise ConversionError(f"{problem}; {error}") from error


def _by_pydicom(data_set: Dataset, transfer_syntax_uid: str) -> None:
    trial = Dataset(data_set)  # so that a failure leaves the data set as it is
    trial[PIXEL_DATA] = copy(data_set[PIXEL_DATA])
    trial.file_meta = FileMetaDataset()
    trial.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    trial.decompress(as_rgb=transfer_syntax_uid in _LOSSY_JPEG, generate_instance_uid=False)
    _check_length(trial)
    data_set.update(trial)


def _by_ourselves(data_set: Dataset, transfer_syntax_uid: str) -> None:
    count = int(data_set.get("NumberOfFrames") or 1)
    pixels = data_set.Rows * data_set.Columns * data_set.SamplesPerPixel
    encoded = generate_frames(
        data_set["PixelData"].value,
        number_of_frames=count,
        extended_offsets=_extended_offsets(data_set),
    )
    formats = _FORMATS_OF_BITS if data_set.BitsAllocated == 1 else _FORMATS
    if transfer_syntax_uid not in formats:
        raise ConversionError(f"no other decoder for {transfer_syntax_uid}")
    frames = [decode_foreign(formats[transfer_syntax_uid], frame) for frame in encoded]
    if data_set.BitsAllocated == 1:
        bits = [_bits(frame, pixels) for frame in frames]
        value = np.packbits(np.concatenate(bits), bitorder="little").tobytes()
    else:
        value = b"".join(_samples(frame, data_set.BitsAllocated) for frame in frames)
    data_set["PixelData"].value = value + b"\0" * (len(value) % 2)
    data_set["PixelData"].VR = "OB" if data_set.BitsAllocated <= 8 else "OW"
    data_set["PixelData"].is_undefined_length = False
    if data_set.SamplesPerPixel > 1:
        data_set.PlanarConfiguration = 0
        data_set.PhotometricInterpretation = "RGB"
    _check_length(data_set)


def _extended_offsets(data_set: Dataset) -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" in data_set and "ExtendedOffsetTableLengths" in data_set:
        return data_set.ExtendedOffsetTable, data_set.ExtendedOffsetTableLengths
    return None


def _bits(frame: NDArray[Any], pixels: int) -> NDArray[np.uint8]:
    """Return one element per pixel, 0 or 1, of a frame that a codec gave packed or as samples."""
    flat = frame.reshape(-1)
    if flat.size < pixels:
        flat = np.unpackbits(flat.view(np.uint8), bitorder="little")
    if flat.size < pixels:
        raise ConversionError(f"{flat.size} of {pixels} pixels in a frame")
    return (flat[:pixels] != 0).astype(np.uint8)


def _samples(frame: NDArray[Any], bits_allocated: int) -> bytes:
    """Return samples in the width that the attributes ask for."""
    if frame.ndim == 1:
        return frame.tobytes()  # bytes that no codec has looked into
    wanted = np.dtype(f"<{'i' if frame.dtype.kind == 'i' else 'u'}{bits_allocated // 8}")
    if frame.dtype.itemsize > wanted.itemsize and np.any(frame.astype(wanted) != frame):
        raise ConversionError(f"samples of {frame.dtype} do not fit {bits_allocated} bits")
    return frame.astype(wanted).tobytes()


def _check_length(data_set: Dataset) -> None:
    count = int(data_set.get("NumberOfFrames") or 1)
    samples = data_set.Rows * data_set.Columns * data_set.SamplesPerPixel * count
    expected = (samples * data_set.BitsAllocated + 7) // 8
    actual = len(data_set.PixelData)
    if actual != expected + expected % 2:
        raise ConversionError(f"decoded to {actual} bytes; the attributes ask for {expected}")
