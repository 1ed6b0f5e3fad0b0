"""A stored data set in a transfer syntax that the receiver accepts.

Between uncompressed syntaxes the data set is parsed and written by pydicom, decompressed first where need be.
Towards a compressed one its frames are encoded without loss (`storage/encode.py`) and every other element stays
as it stands in explicit VR little endian. Samples never change: a lossy original stays what it is.
"""

import tempfile
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from dcmpress.storage.decompress import decompress
from dcmpress.storage.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_SYNTAXES,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_DATA,
    Buffer,
    Encoding,
    encoding_of,
    inflate,
    iterate,
)
from dcmpress.storage.encapsulation import (
    EXTENDED_OFFSET_TABLE,
    EXTENDED_OFFSET_TABLE_LENGTHS,
    Converted,
)
from dcmpress.storage.encode import elements_around, encode_pixels, native_pixels
from dcmpress.storage.errors import ConversionError, MalformedError
from dcmpress.storage.targets import COMPRESSED, TARGETS

# What was received is given out as it is: values that break the standard are the sender's to mend.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")

LARGEST_INFLATED = 1 << 31

_WORD_BYTES = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
"""Bytes of a word in the values whose byte order is that of the transfer syntax (PS3.5 section 7.3)."""


_LOSSY_JPEG = {f"1.2.840.10008.1.2.4.{n}": "ISO_10918_1" for n in (50, 51, 53, 55)}
"""Transfer syntax whose frames are always compressed with loss -> Lossy Image Compression Method."""


def convert(data: Buffer, stored: str, target: str, folder: Path | None = None) -> Converted:
    """Return the data set `data`, encoded in the transfer syntax `stored`, encoded in `target`.

    Parameters
    ----------
    folder : Path, optional
        For temporary files. None: the system's.

    Raises
    ------
    ConversionError
        If it cannot be read, its pixel data cannot be decoded, or `target` does not take such pixels.
    """
    if target == stored:
        return Converted(bytes(data))
    if target not in TARGETS:
        raise ConversionError(f"no conversion to {target}")
    try:
        if target in COMPRESSED:
            return _compressed(data, stored, target, folder or Path(tempfile.gettempdir()))
        if target == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            return Converted(_deflated(_convert(data, stored, EXPLICIT_VR_LITTLE_ENDIAN)))
        return Converted(_convert(data, stored, target))
    except ConversionError:
        raise
    except MalformedError as error:
        raise ConversionError(f"it cannot be read: {error}") from error
    except Exception as error:  # pydicom and its decoders raise whatever the data provokes
        # Its text may quote a value, a patient's name among them; the log gets the kind of error alone.
        raise ConversionError(f"cannot convert from {UID(stored).name}: {type(error).__name__}") from error


def _compressed(data: Buffer, stored: str, target: str, folder: Path) -> Converted:
    if stored not in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        data, stored = _convert(data, stored, EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN
    pixels, start, end = native_pixels(data, stored)
    if stored == EXPLICIT_VR_LITTLE_ENDIAN:
        head, tail = bytes(data[:start]), bytes(data[end:])
        for _ in iterate(tail, encoding_of(stored)):
            pass  # what is cut short there is not given out
    else:
        shell = bytes(data[:start]) + bytes(data[end:])
        head, tail = elements_around(_convert(shell, stored, EXPLICIT_VR_LITTLE_ENDIAN))
    return encode_pixels(pixels, head, tail, target, folder)


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush()
    return packed + b"\0" * (len(packed) % 2)  # PS3.5 A.5


def _convert(data: Buffer, stored: str, target: str) -> bytes:
    if stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data, stored = inflate(bytes(data), LARGEST_INFLATED, whole=True), EXPLICIT_VR_LITTLE_ENDIAN
    elif stored in DEFLATED_SYNTAXES:
        raise ConversionError(f"no conversion from {UID(stored).name}")
    encoding = encoding_of(stored)
    rest, fragments = _without_fragments(data, encoding)
    if target == stored:
        return bytes(data)
    data_set = Dataset(read_dataset(BytesIO(rest), not encoding.explicit, encoding.little_endian))
    data_set.set_original_encoding(not encoding.explicit, encoding.little_endian)
    if not encoding.little_endian:
        _swap_words(data_set)
    if fragments is not None:
        data_set.add_new(PIXEL_DATA, "OB", fragments)
        decompress(data_set, stored)
        _decompress_nested(data_set, stored)
        for table in (EXTENDED_OFFSET_TABLE, EXTENDED_OFFSET_TABLE_LENGTHS):
            if table in data_set:
                del data_set[table]
        if stored in _LOSSY_JPEG and not data_set.get("LossyImageCompression"):
            data_set.LossyImageCompression = "01"  # so far the transfer syntax has said so
            data_set.LossyImageCompressionMethod = _LOSSY_JPEG[stored]
    return encode(data_set, target)


def encode(data_set: Dataset, target: str) -> bytes:
    """Return pydicom's data set as explicit or implicit VR little endian; its pixels must be little endian."""
    out = DicomBytesIO()
    out.is_little_endian = True
    out.is_implicit_VR = target == IMPLICIT_VR_LITTLE_ENDIAN
    write_dataset(out, data_set)
    return out.getvalue()


def _without_fragments(data: Buffer, encoding: Encoding) -> tuple[bytes, bytes | None]:
    """Return a data set without its encapsulated pixel data, and the items of that, or None.

    pydicom ends the value at the first bytes that look like a delimiter, even inside a compressed frame.
    """
    found = None
    for element in iterate(data, encoding):  # to the end: pydicom leaves away what it cannot read there
        if element.tag == PIXEL_DATA and element.undefined_length:
            found = element
    if found is None:
        return bytes(data), None
    rest = bytes(data[: found.start]) + bytes(data[found.end :])
    return rest, bytes(data[found.value : found.end - 8])


def _decompress_nested(data_set: Dataset, stored: str) -> None:
    """Decompress images in sequences (icons): no encapsulated value may stand in a native syntax."""
    for element in data_set:
        for item in element.value if element.VR == "SQ" else ():
            if PIXEL_DATA in item and item[PIXEL_DATA].is_undefined_length:
                decompress(item, stored)
            _decompress_nested(item, stored)


def _swap_words(data_set: Dataset) -> None:
    """Turn values that are strings of words from big to little endian, those in sequences included."""
    for element in data_set.iterall():
        size = _WORD_BYTES.get(element.VR, 1)
        if element.tag == PIXEL_DATA and data_set.BitsAllocated > 8:
            size = data_set.BitsAllocated // 8  # a sample is a word, whatever the VR
        if size > 1 and isinstance(element.value, bytes):
            words = np.frombuffer(element.value, np.uint8)
            whole = len(words) // size * size
            swapped = words[:whole].reshape(-1, size)[:, ::-1].tobytes()
            element.value = swapped + element.value[whole:]
