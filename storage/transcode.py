"""A stored data set in a transfer syntax that the receiver accepts.

The exact bytes go out whenever their own transfer syntax is accepted. Otherwise the data set is parsed and
written as explicit or implicit VR little endian, decompressed first where need be, by pydicom and the
decoders it finds (OpenJPEG, CharLS, GDCM). Samples never change: a lossy original stays what it is.
"""

import warnings
from collections.abc import Sequence
from io import BytesIO

from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from dcmpress.storage.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_SYNTAXES,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    NATIVE_SYNTAXES,
    PIXEL_DATA,
    encoding_of,
    inflate,
    iterate,
)
from dcmpress.storage.errors import ConversionError, MalformedError

# What was received is given out as it is: values that break the standard are the sender's to mend.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")

TARGETS = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
"""Transfer syntaxes that any readable data set can be given out in, in order of preference."""

LARGEST_INFLATED = 1 << 31

_WORD_BYTES = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
"""Bytes of a word in the values whose byte order is that of the transfer syntax (PS3.5 section 7.3)."""


def choose(stored: str, accepted: Sequence[str]) -> str | None:
    """Return the transfer syntax to send a data set in, or None if none of those accepted will do."""
    if stored in accepted:
        return stored
    return next((target for target in TARGETS if target in accepted), None)


def convert(data: bytes, stored: str, target: str) -> bytes:
    """Return the data set `data`, encoded in the transfer syntax `stored`, encoded in `target`.

    Raises
    ------
    ConversionError
        If it cannot be read, or its pixel data cannot be decoded.
    """
    if target == stored:
        return data
    if target not in TARGETS:
        raise ConversionError(f"no conversion to {target}")
    try:
        return _convert(data, stored, target)
    except ConversionError:
        raise
    except MalformedError as error:
        raise ConversionError(f"it cannot be read: {error}") from error
    except Exception as error:  # pydicom and its decoders raise whatever the data provokes
        raise ConversionError(f"cannot convert from {UID(stored).name}: {error}") from error


def _convert(data: bytes, stored: str, target: str) -> bytes:
    if stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data, stored = inflate(data, LARGEST_INFLATED, whole=True), EXPLICIT_VR_LITTLE_ENDIAN
    elif stored in DEFLATED_SYNTAXES:
        raise ConversionError(f"no conversion from {UID(stored).name}")
    encoding = encoding_of(stored)
    for _ in iterate(data, encoding):
        pass  # pydicom leaves away, without a word, what it cannot read at the end
    if target == stored:
        return data
    data_set = Dataset(read_dataset(BytesIO(data), not encoding.explicit, encoding.little_endian))
    data_set.set_original_encoding(not encoding.explicit, encoding.little_endian)
    if stored not in NATIVE_SYNTAXES and "PixelData" in data_set:
        _decompress(data_set, stored)
    elif not encoding.little_endian:
        _swap_words(data_set)
    out = DicomBytesIO()
    out.is_little_endian = True
    out.is_implicit_VR = target == IMPLICIT_VR_LITTLE_ENDIAN
    write_dataset(out, data_set)
    return out.getvalue()


def _decompress(data_set: Dataset, stored: str) -> None:
    from pydicom.dataset import FileMetaDataset

    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(stored)
    data_set.decompress(generate_instance_uid=False)


def _swap_words(data_set: Dataset) -> None:
    """Turn values of words from big to little endian, in all items: pydicom hands them on as they stand."""
    for element in data_set:
        if element.VR == "SQ":
            for item in element.value:
                _swap_words(item)
        elif element.VR in _WORD_BYTES and isinstance(element.value, bytes):
            size = _WORD_BYTES[element.VR]
            if element.tag == PIXEL_DATA and data_set.get("BitsAllocated") == 32:
                size = 4
            value = element.value
            swapped = bytearray(len(value) - len(value) % size)
            for k in range(size):
                swapped[k::size] = value[size - 1 - k : len(swapped) : size]
            element.value = bytes(swapped) + value[len(swapped) :]
