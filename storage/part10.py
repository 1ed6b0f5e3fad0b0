"""The DICOM file format (PS3.10 section 7) around an encoded data set whose bytes are not touched."""

import struct
from dataclasses import dataclass

from dcmpress.storage.elements import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Buffer,
    Encoding,
    iterate,
)
from dcmpress.storage.errors import MalformedError

PREAMBLE_LENGTH = 128
PREFIX = b"DICM"

IMPLEMENTATION_CLASS_UID = "2.25.136104563520453853461326540285410735877"
IMPLEMENTATION_VERSION_NAME = "DCMPRESS_01"

_GROUP_LENGTH = struct.Struct("<HH2sHI")
_META_ENCODING = Encoding(explicit=True)


@dataclass(frozen=True)
class FileMeta:
    """File Meta Information, as far as it matters here."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    source_ae: str = ""
    sending_ae: str = ""
    receiving_ae: str = ""


def encode_file_meta(meta: FileMeta) -> bytes:
    """Return group 0002 in explicit VR little endian, with its group length."""
    elements = [
        _element(0x0001, b"OB", b"\x00\x01"),
        _element(0x0002, b"UI", meta.sop_class_uid.encode("ascii", "replace")),
        _element(0x0003, b"UI", meta.sop_instance_uid.encode("ascii", "replace")),
        _element(0x0010, b"UI", meta.transfer_syntax_uid.encode("ascii", "replace")),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()),
    ]
    for number, title in ((0x0016, meta.source_ae), (0x0017, meta.sending_ae), (0x0018, meta.receiving_ae)):
        if title:
            elements.append(_element(number, b"AE", title.encode("ascii", "replace")))
    body = b"".join(elements)
    return _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(body)) + body


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr == b"OB":
        return struct.pack("<HH2sHI", 0x0002, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, number, vr, len(value)) + value


def part10_header(meta: FileMeta, preamble: bytes = bytes(PREAMBLE_LENGTH)) -> bytes:
    """Return everything that stands before the data set in a DICOM file."""
    return preamble + PREFIX + encode_file_meta(meta)


def read_part10(data: Buffer) -> tuple[FileMeta | None, int]:
    """Return (file meta, offset of the data set) of a file's content.

    Takes what is found in practice: a file without preamble, without file meta (None is returned, and the
    transfer syntax is to be guessed), or with a wrong group length.

    Raises
    ------
    MalformedError
        If this is not DICOM.
    """
    at = 0
    if bytes(data[PREAMBLE_LENGTH : PREAMBLE_LENGTH + 4]) == PREFIX:
        at = PREAMBLE_LENGTH + 4
    elif bytes(data[:4]) == PREFIX:
        at = 4
    values: dict[int, str] = {}
    end = at
    try:
        for element in iterate(data, _META_ENCODING, at):
            if element.tag >> 16 != 0x0002:
                break
            end = element.end
            if element.vr in (b"UI", b"AE"):
                raw = bytes(data[element.value : element.end])
                values[element.tag & 0xFFFF] = (
                    raw.decode("ascii", "replace").replace("\ufffd", "?").strip(" \0")
                )
    except MalformedError:
        pass  # the data set itself is not in explicit VR little endian: group 0002 has ended
    if end == at:
        if at == 0 and guess_transfer_syntax(data) is None:
            raise MalformedError("not a DICOM file")
        return None, at
    if not values.get(0x0010):
        return None, end
    return (
        FileMeta(
            values.get(0x0002, ""),
            values.get(0x0003, ""),
            values[0x0010],
            values.get(0x0016, ""),
            values.get(0x0017, ""),
            values.get(0x0018, ""),
        ),
        end,
    )


def guess_transfer_syntax(data: Buffer) -> str | None:
    """Return the native transfer syntax in which `data` could be the beginning of a data set, or None.

    The first element of a data set is in a low group: 0008 in nearly all, 0004 in a DICOMDIR.
    """
    if len(data) < 8:
        return None
    first = bytes(data[:8])
    for little, syntax in ((True, EXPLICIT_VR_LITTLE_ENDIAN), (False, EXPLICIT_VR_BIG_ENDIAN)):
        (group,) = struct.unpack_from("<H" if little else ">H", first)
        if 0x0004 <= group <= 0x0010:
            if first[4:6].isalpha() and first[4:6].isupper():
                return syntax
            if little and struct.unpack_from("<I", first, 4)[0] < 1 << 16:
                return IMPLICIT_VR_LITTLE_ENDIAN
    return None
