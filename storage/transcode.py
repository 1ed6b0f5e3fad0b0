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
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    NATIVE_SYNTAXES,
    encoding_of,
    inflate,
)
from dcmpress.storage.errors import ConversionError, MalformedError

# What was received is given out as it is: values that break the standard are the sender's to mend.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\.")

TARGETS = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
"""Transfer syntaxes that any readable data set can be given out in, in order of preference."""

LARGEST_INFLATED = 1 << 31


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
    except MalformedError as error:
        raise ConversionError(str(error)) from error
    except Exception as error:  # pydicom and its decoders raise whatever the data provokes
        raise ConversionError(f"cannot convert from {UID(stored).name}: {error}") from error


def _convert(data: bytes, stored: str, target: str) -> bytes:
    if stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data, stored = inflate(data, LARGEST_INFLATED), EXPLICIT_VR_LITTLE_ENDIAN
        if target == stored:
            return data
    encoding = encoding_of(stored)
    data_set = Dataset(read_dataset(BytesIO(data), not encoding.explicit, encoding.little_endian))
    data_set.set_original_encoding(not encoding.explicit, encoding.little_endian)
    if stored not in NATIVE_SYNTAXES and "PixelData" in data_set:
        _decompress(data_set, stored)
    elif not encoding.little_endian:
        _swap_pixel_data(data_set)
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


def _swap_pixel_data(data_set: Dataset) -> None:
    """Turn 16 and 32-bit samples from big to little endian; pydicom hands pixel data on as it stands."""
    for keyword, size in (("PixelData", data_set.get("BitsAllocated", 8) // 8), ("FloatPixelData", 4)):
        if keyword in data_set and size in (2, 4):
            value = data_set[keyword].value
            swapped = bytearray(len(value))
            for k in range(size):
                swapped[k::size] = value[size - 1 - k :: size][: len(swapped[k::size])]
            data_set[keyword].value = bytes(swapped)
