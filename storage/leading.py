"""The attributes that the catalog wants, read from the leading elements of an encoded data set.

Runs before the acknowledgement, so it looks at the first elements only, skips what nobody asked for, and
never fails a store: what cannot be read is reported, and the rest is indexed all the same.
"""

import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from dcmpress.storage.catalog.attributes import Attribute
from dcmpress.storage.elements import (
    DEFLATED_SYNTAXES,
    PIXEL_DATA,
    Buffer,
    Element,
    Encoding,
    encoding_of,
    inflate,
    iterate,
)
from dcmpress.storage.errors import MalformedError

# What a sender wrote in an unknown character set is shown as well as it can be; saying so once per value
# would flood the log. (`warnings.catch_warnings` would not do: it is not safe in threads.)
warnings.filterwarnings("ignore", module=r"pydicom\.charset")

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018

INFLATED_LIMIT = 1 << 20
"""Bytes of a deflated data set that are inflated to look for attributes."""

_CHARSET_VRS = frozenset({"PN", "LO", "SH", "LT", "ST", "UT", "UC"})
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_LONGEST_VALUE = 4096
"""Bytes of a value that the catalog has any use for."""


@dataclass
class Leading:
    """What the leading elements say."""

    attributes: dict[str, str] = field(default_factory=dict)
    """Keyword -> decoded text, values joined by a backslash; absent and empty ones are missing."""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    problem: str = ""
    """Why reading stopped before the last wanted element, or "" if it did not."""


def read_leading(data: Buffer, transfer_syntax_uid: str, wanted: Mapping[int, Attribute]) -> Leading:
    """Read the `wanted` attributes (by tag) from the first bytes of an encoded data set.

    `data` may be the beginning only: elements that it does not hold whole are a `problem`, not an error.
    """
    leading = Leading()
    values: dict[int, tuple[Element, bytes]] = {}
    last = max(wanted)
    encoding = encoding_of(transfer_syntax_uid)
    try:
        if transfer_syntax_uid in DEFLATED_SYNTAXES:
            data = inflate(data, INFLATED_LIMIT)
        previous = 0  # an element out of order does not end the search
        for element in iterate(data, encoding):
            tag = element.tag
            if tag > last and tag >= previous:
                break
            previous = tag
            if tag in (SPECIFIC_CHARACTER_SET, SOP_CLASS_UID, SOP_INSTANCE_UID) or (
                tag in wanted and element.end - element.value <= _LONGEST_VALUE
            ):
                values.setdefault(tag, (element, bytes(data[element.value : element.end])))
            if tag == PIXEL_DATA:
                break
    except MalformedError as error:
        leading.problem = str(error)

    charset = _text(values, SPECIFIC_CHARACTER_SET)
    encodings = _python_encodings(charset)
    leading.sop_class_uid = _text(values, SOP_CLASS_UID)
    leading.sop_instance_uid = _text(values, SOP_INSTANCE_UID)
    for tag, (element, raw) in values.items():
        if tag in wanted and not element.undefined_length:
            text = _decode(raw, wanted[tag].vr, encodings, encoding)
            if text:
                leading.attributes[wanted[tag].keyword] = text
    return leading


def _text(values: Mapping[int, tuple[Element, bytes]], tag: int) -> str:
    return values[tag][1].decode("ascii", "replace").strip(" \0") if tag in values else ""


def _python_encodings(specific_character_set: str) -> list[str]:
    try:
        return list(convert_encodings(specific_character_set.split("\\")))
    except (LookupError, ValueError):
        return ["iso8859"]


def _decode(raw: bytes, vr: str, encodings: list[str], encoding: Encoding) -> str:
    if vr in _BINARY:
        code = ("<" if encoding.little_endian else ">") + _BINARY[vr]
        size = struct.calcsize(code)
        numbers = (struct.unpack_from(code, raw, at)[0] for at in range(0, len(raw) - size + 1, size))
        return "\\".join(str(number) for number in numbers)
    # Most text is ASCII, which every character set holds; but an ISO 2022 escape is made of ASCII bytes.
    if vr in _CHARSET_VRS and not (raw.isascii() and b"\x1b" not in raw):
        try:
            if vr == "PN":
                text = "=".join(decode_bytes(part, encodings, PN_DELIMS) for part in raw.split(b"="))
            else:
                text = decode_bytes(raw, encodings, TEXT_VR_DELIMS)
            return text.strip(" \0")
        except (LookupError, ValueError):
            pass
    return raw.decode("latin-1").strip(" \0")
