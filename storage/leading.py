"""The attributes that the catalog wants, read from the leading elements of an encoded data set.

Runs before the acknowledgement, so it looks at the first elements only, skips what nobody asked for, and
never fails a store: what cannot be read is reported, and the rest is indexed all the same.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from dcmpress.storage.catalog.attributes import Attribute
from dcmpress.storage.charset import CharacterSet
from dcmpress.storage.elements import (
    DEFLATED_SYNTAXES,
    Buffer,
    Encoding,
    encoding_of,
    inflate,
    walk,
)
from dcmpress.storage.errors import MalformedError

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
_ALWAYS = frozenset({SPECIFIC_CHARACTER_SET, SOP_CLASS_UID, SOP_INSTANCE_UID})

INFLATED_LIMIT = 1 << 20
"""Bytes of a deflated data set that are inflated to look for attributes."""

_CHARSET_VRS = frozenset({"PN", "LO", "SH", "LT", "ST", "UT", "UC"})
_BINARY = {
    vr: {True: struct.Struct("<" + code), False: struct.Struct(">" + code)}
    for vr, code in {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}.items()
}
"""VR -> whether little endian -> one number."""

_LONGEST_CHARSET = 256
_LONGEST_VALUE = 4096
"""Bytes of a value that the catalog has any use for."""


_character_set = lru_cache(maxsize=256)(CharacterSet)


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
    values: dict[int, bytes] = {}
    unread: set[int] = set()  # sequences, or what is none but says so
    encoding = encoding_of(transfer_syntax_uid)
    try:
        if transfer_syntax_uid in DEFLATED_SYNTAXES:
            data = inflate(data, INFLATED_LIMIT)
        data = bytes(data)  # slices of it cost one copy
        for tag, _, _, value, end, undefined_length in walk(data, encoding, until=max(wanted)):
            if tag in values or not (tag in wanted or tag in _ALWAYS):
                continue
            if end - value > _LONGEST_VALUE:
                if tag not in _ALWAYS:
                    continue
                end = value + _LONGEST_VALUE
            values[tag] = data[value:end]
            if undefined_length:
                unread.add(tag)
    except MalformedError as error:
        leading.problem = str(error)

    charset = _character_set(_text(values, SPECIFIC_CHARACTER_SET)[:_LONGEST_CHARSET])
    leading.sop_class_uid = _text(values, SOP_CLASS_UID)
    leading.sop_instance_uid = _text(values, SOP_INSTANCE_UID)
    for tag, raw in values.items():
        attribute = wanted.get(tag)
        if attribute is None or tag in unread:
            continue
        if raw.isascii() and b"\x1b" not in raw and attribute.vr not in _BINARY:  # the same in every set
            text = raw.decode("ascii").strip(" \0")
        else:
            text = _decode(raw, attribute.vr, charset, encoding)
        if text:
            leading.attributes[attribute.keyword] = text
    return leading


def _text(values: Mapping[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("ascii", "replace").replace("\ufffd", "?").strip(" \0")


def _decode(raw: bytes, vr: str, charset: CharacterSet, encoding: Encoding) -> str:
    if vr in _BINARY:
        one = _BINARY[vr][encoding.little_endian]
        whole = raw[: len(raw) - len(raw) % one.size]
        return "\\".join([str(number) for (number,) in one.iter_unpack(whole)])
    if vr in _CHARSET_VRS:
        return charset.decode(raw, name=vr == "PN").strip(" \0")
    return raw.decode("latin-1").strip(" \0")
