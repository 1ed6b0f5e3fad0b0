"""A data set without its bulk data (PS3.4 section Z.1.3): what is left is small, and stays as it was received."""

import zlib
from collections.abc import Sequence
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dcmpress.storage.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Encoding,
    encoding_of,
    inflate,
    iterate,
)
from dcmpress.storage.errors import ConversionError, MalformedError
from dcmpress.storage.transcode import convert

_BULK = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010, 0x00287FE0, 0x56000020})
"""Pixel data in its three forms, Pixel Data Provider URL, Spectroscopy Data."""

_BULK_OF_GROUPS = frozenset({0x60003000, 0x50003000, 0x5000200C})
"""Overlay, curve and audio data, in every group 60xx or 50xx."""

_WAVEFORM_SEQUENCE, _WAVEFORM_DATA = 0x54000100, 0x54001010

_LARGEST_INFLATED = 1 << 31


def without_bulk_data(data: bytes, stored: str, accepted: Sequence[str]) -> tuple[bytes, str]:
    """Return (data set without bulk data, its transfer syntax), which is one of `accepted`.

    Raises
    ------
    ConversionError
        If the data set cannot be read, or none of the transfer syntaxes will do.
    """
    if stored == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        try:
            data = inflate(data, _LARGEST_INFLATED, whole=True)
        except MalformedError as error:
            raise ConversionError(str(error)) from error
        bare = _without(data, encoding_of(stored))
        if stored in accepted:
            deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            return deflater.compress(bare) + deflater.flush(), stored
        stored = EXPLICIT_VR_LITTLE_ENDIAN
    else:
        bare = _without(data, encoding_of(stored))
    if stored in accepted:
        return bare, stored
    for target in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        if target in accepted:
            return b"".join(convert(bare, stored, target).pieces()), target
    raise ConversionError("the receiver accepts no transfer syntax for this SOP class")


def _without(data: bytes, encoding: Encoding) -> bytes:
    kept = []
    try:
        for element in iterate(data, encoding):
            if element.tag in _BULK or element.tag & 0xFF00FFFF in _BULK_OF_GROUPS:
                continue
            raw = data[element.start : element.end]
            kept.append(_without_samples(raw, encoding) if element.tag == _WAVEFORM_SEQUENCE else raw)
    except MalformedError as error:
        raise ConversionError(f"it cannot be read: {error}") from error
    return b"".join(kept)


def _without_samples(sequence: bytes, encoding: Encoding) -> bytes:
    """Return an encoded Waveform Sequence whose items have no Waveform Data."""
    alone = Dataset(read_dataset(BytesIO(sequence), not encoding.explicit, encoding.little_endian))
    for item in alone[_WAVEFORM_SEQUENCE].value:
        if _WAVEFORM_DATA in item:
            del item[_WAVEFORM_DATA]
    out = DicomBytesIO()
    out.is_little_endian = encoding.little_endian
    out.is_implicit_VR = not encoding.explicit
    write_dataset(out, alone)
    return out.getvalue()
