"""Identifiers of C-FIND, C-GET and C-MOVE: encoded bytes to keys, matches to encoded bytes (PS3.4 C.4).

Answers are encoded directly, without a data set in between: a query may have thousands of them.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_VR, keyword_for_tag

from dcmpress.storage.catalog.attributes import BY_TAG
from dcmpress.storage.charset import UTF_8, CharacterSet
from dcmpress.storage.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    Element,
    Encoding,
    encoding_of,
    iterate,
)
from dcmpress.storage.errors import MalformedError

SPECIFIC_CHARACTER_SET = 0x00080005
QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054
INSTANCE_AVAILABILITY = 0x00080056
FAILED_SOP_INSTANCE_UID_LIST = 0x00080058

FIXED = frozenset({QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, INSTANCE_AVAILABILITY})
"""Keys that every answer has, with a value that does not depend on the match."""

LONGEST_IDENTIFIER = 16 << 20
"""Bytes, inflated: some 200,000 UIDs in one list."""

_LONG_FORM_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_LONGEST_SHORT_FORM = 0xFFFE
_CHARSET_VRS = frozenset({"PN", "LO", "SH", "LT", "ST", "UT", "UC"})
_NUMBER_FORMATS = {"US": "H", "SS": "h", "UL": "I", "SL": "i"}


class IdentifierError(Exception):
    """A query or retrieve request that cannot be carried out; `status` is the one that PS3.4 names.

    Attributes
    ----------
    status : of the final response (PS3.4 tables C.4-1 to C.4-3)
    offending : tags for Offending Element (0000,0901)
    loggable : the message without what the request says, which may be a patient's name
    """

    status = 0xC000

    def __init__(self, message: str, *offending: int, loggable: str = "") -> None:
        super().__init__(message)
        self.offending = offending
        self.loggable = loggable or message


class UnreadableIdentifierError(IdentifierError):
    """The bytes are no data set in the negotiated transfer syntax, or a value makes no sense."""

    status = 0xC000


class IdentifierMismatchError(IdentifierError):
    """Data set (identifier) does not match the SOP class: wrong level, or a unique key is missing."""

    status = 0xA900


class NewInstanceError(IdentifierError):
    """Unable to create a new object for this SOP class (PS3.4 annex Y)."""

    status = 0xAA01


@dataclass(frozen=True, slots=True)
class RequestedKey:
    """One element of a request's identifier."""

    tag: int
    vr: str
    keyword: str
    """Empty if the data dictionary does not know the tag."""
    text: str
    """The decoded value, values joined by a backslash; of a sequence always empty."""


@dataclass(frozen=True)
class Identifier:
    """A decoded identifier: what is asked, and in which character set."""

    level: str
    """Query/Retrieve Level as sent, upper case; empty if it is missing."""
    character_set: CharacterSet
    keys: Mapping[int, RequestedKey] = field(default_factory=dict)
    """By tag; without character set, level, and group lengths."""

    def texts(self) -> dict[str, str]:
        """Return keyword -> text of every key that has a keyword."""
        return {key.keyword: key.text for key in self.keys.values() if key.keyword}


def decode_identifier(data: bytes, transfer_syntax_uid: str, default_charset: str = "") -> Identifier:
    """Decode an identifier.

    Parameters
    ----------
    data : the data set as it was on the wire
    transfer_syntax_uid : negotiated for its presentation context
    default_charset : terms to assume for a peer that names no character set but does not write ASCII

    Raises
    ------
    UnreadableIdentifierError
        If it cannot be read, or is unreasonably long.
    """
    encoding = encoding_of(transfer_syntax_uid)
    try:
        if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            data = _inflate(data)
        if len(data) > LONGEST_IDENTIFIER:
            raise UnreadableIdentifierError(f"the identifier is longer than {LONGEST_IDENTIFIER} bytes")
        elements = {element.tag: element for element in iterate(data, encoding)}
    except MalformedError as error:
        raise UnreadableIdentifierError(f"the identifier cannot be read: {error}") from error
    charset = CharacterSet(_ascii(data, elements.pop(SPECIFIC_CHARACTER_SET, None)) or default_charset)
    level = _ascii(data, elements.pop(QUERY_RETRIEVE_LEVEL, None)).upper()
    keys = {
        tag: _requested_key(data, elements[tag], encoding, charset)
        for tag in sorted(elements)
        if tag & 0xFFFF != 0  # group lengths are retired
    }
    return Identifier(level, charset, keys)


def _inflate(data: bytes) -> bytes:
    """Return an inflated identifier; one that was cut short must not ask for more than its sender did."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, LONGEST_IDENTIFIER + 1)
    except zlib.error as error:
        raise MalformedError(str(error)) from None
    if not inflater.eof and len(inflated) <= LONGEST_IDENTIFIER:
        raise MalformedError("the deflated bytes end too early")
    return inflated


def _ascii(data: bytes, element: Element | None) -> str:
    if element is None:
        return ""
    return data[element.value : element.end].decode("ascii", "replace").strip(" \0")


def _requested_key(data: bytes, element: Element, encoding: Encoding, charset: CharacterSet) -> RequestedKey:
    tag = element.tag
    keyword, vr = _known(tag)
    sent_vr = element.vr.decode("ascii")
    if sent_vr and sent_vr != "UN":
        vr = sent_vr
    if vr == "SQ" or element.undefined_length:
        return RequestedKey(tag, "SQ", keyword, "")
    raw = data[element.value : element.end]
    if vr in _NUMBER_FORMATS:
        form = ("<" if encoding.little_endian else ">") + _NUMBER_FORMATS[vr]
        whole = raw[: len(raw) - len(raw) % struct.calcsize(form)]
        text = "\\".join(str(number) for (number,) in struct.iter_unpack(form, whole))
    elif vr in _CHARSET_VRS:
        text = charset.decode(raw, name=vr == "PN").strip(" \0")
    else:
        text = raw.decode("latin-1").strip(" \0")
    return RequestedKey(tag, vr, keyword, text)


def _known(tag: int) -> tuple[str, str]:
    """Return keyword and VR of a tag; "" and UN if the dictionary does not have it."""
    attribute = BY_TAG.get(tag)
    if attribute is not None:
        return attribute.keyword, attribute.vr
    try:
        return keyword_for_tag(tag), dictionary_VR(tag)[:2]  # of "US or SS" the first
    except KeyError:
        return "", "UN"


def encode_failed_list(sop_instance_uids: Iterable[str], transfer_syntax_uid: str) -> bytes:
    """Return the identifier that lists failed sub-operations: Failed SOP Instance UID List (C.4.2.1.4.2).

    A list too long for a 16-bit length, about a thousand UIDs, is cut where the VR form is explicit.
    """
    encoding = encoding_of(transfer_syntax_uid)
    listed: list[bytes] = []
    length = -1
    for uid in sop_instance_uids:
        encoded = uid.encode("ascii", "replace")
        length += 1 + len(encoded)
        if encoding.explicit and length > _LONGEST_SHORT_FORM:
            break
        listed.append(encoded)
    value = b"\\".join(listed)
    element = _element(FAILED_SOP_INSTANCE_UID_LIST, "UI", value, encoding)
    return _deflate(element) if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else element


class AnswerEncoder:
    """Encodes the matches of one request as identifiers of its responses.

    Every key that was asked for comes back, in ascending order of tags, empty where there is no value; so
    do Query/Retrieve Level, Retrieve AE Title and Instance Availability. The character set is the
    requester's own if that can hold all values, else UTF-8; it is named whenever a value is not ASCII.
    """

    def __init__(self, request: Identifier, transfer_syntax_uid: str, retrieve_ae_title: str) -> None:
        self._encoding = encoding_of(transfer_syntax_uid)
        self._deflated = transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
        self._character_set = request.character_set
        fixed = {
            QUERY_RETRIEVE_LEVEL: ("CS", request.level),
            RETRIEVE_AE_TITLE: ("AE", retrieve_ae_title),
            INSTANCE_AVAILABILITY: ("CS", "ONLINE"),
        }
        self._fields: list[tuple[int, str, str, bytes]] = []
        """(tag, VR, keyword, whole element if its value never changes)"""
        for tag in sorted({*request.keys, *fixed}):
            if tag in fixed:
                vr, text = fixed[tag]
                self._fields.append((tag, vr, "", self._encoded(tag, vr, text.encode("ascii"))))
                continue
            key = request.keys[tag]
            attribute = BY_TAG.get(tag)
            if attribute is None or key.vr == "SQ":
                self._fields.append((tag, key.vr, "", self._encoded(tag, key.vr, b"")))
            else:
                self._fields.append((tag, attribute.vr, attribute.keyword, b""))

    def encode(self, match: Mapping[str, str]) -> bytes:
        """Return the identifier of the response for `match` (keyword -> text)."""
        body = self._encode_in(match, self._character_set)
        if body is None:
            body = self._encode_in(match, _UTF_8)
            assert body is not None  # the catalog keeps no text that UTF-8 cannot hold
        return _deflate(body) if self._deflated else body

    def _encode_in(self, match: Mapping[str, str], character_set: CharacterSet) -> bytes | None:
        elements = []
        ascii_only = True
        for tag, vr, keyword, whole in self._fields:
            if whole:
                elements.append(whole)
                continue
            text = match.get(keyword, "")
            if vr in _NUMBER_FORMATS:
                elements.append(self._encoded(tag, vr, self._numbers(vr, text)))
                continue
            if text.isascii():
                value: bytes | None = text.encode("ascii")
            else:
                value = character_set.encode(text, name=vr == "PN")
                ascii_only = False
            if value is None:
                return None
            elements.append(self._encoded(tag, vr, value))
        terms = character_set.terms
        if terms or not ascii_only:
            elements.insert(0, self._encoded(SPECIFIC_CHARACTER_SET, "CS", terms.encode("ascii", "replace")))
        return b"".join(elements)

    def _encoded(self, tag: int, vr: str, value: bytes) -> bytes:
        return _element(tag, vr, value, self._encoding)

    def _numbers(self, vr: str, text: str) -> bytes:
        form = ("<" if self._encoding.little_endian else ">") + _NUMBER_FORMATS[vr]
        try:
            return b"".join(struct.pack(form, int(number)) for number in text.split("\\") if number)
        except (ValueError, struct.error):  # a sender's value that does not fit its own VR
            return b""


def _element(tag: int, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """Return one encoded data element, its value padded to even length (PS3.5 section 7.1)."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "OB", "UN") else b" "
    order = "<" if encoding.little_endian else ">"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not encoding.explicit:
        return head + struct.pack(order + "I", len(value)) + value
    if vr in _LONG_FORM_VRS:
        return head + vr.encode("ascii") + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return head + vr.encode("ascii") + struct.pack(order + "H", len(value)) + value


def _deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(body) + deflater.flush()
    return deflated + b"\0" * (len(deflated) % 2)


_UTF_8 = CharacterSet(UTF_8)
