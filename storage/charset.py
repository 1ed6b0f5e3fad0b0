"""Text on the wire in a Specific Character Set (0008,0005): PS3.5 6.1.2 and PS3.3 C.12.1.1.2.

pydicom knows the character sets; this module adds what a query needs: decoding that never fails, and
encoding that says when a set cannot hold a value, so that another one is chosen instead of question marks.
"""

import re
import warnings
from dataclasses import dataclass, field
from functools import lru_cache

from pydicom.charset import convert_encodings, decode_bytes, encode_string

UTF_8 = "ISO_IR 192"

# What a peer wrote in an unknown character set is read as well as it can be; once per value would flood
# the log. (`warnings.catch_warnings` would not do: it is not safe in threads.)
warnings.filterwarnings("ignore", module=r"pydicom\.charset")

_DEFAULT_TERMS = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_TEXT_DELIMITERS = "\\\t\n\f\r"
_NAME_DELIMITERS = "^=" + _TEXT_DELIMITERS
"""Each of them resets the code extension (PS3.5 6.1.2.5.3)."""

_TO_GB_2312 = "\x1b$)A"
"""The escape to ISO-IR 58, which pydicom 3.0 neither writes nor takes away."""

_DELIMITER_BYTES = {
    False: {ord(character) for character in _TEXT_DELIMITERS},
    True: {ord(character) for character in _NAME_DELIMITERS},
}


@dataclass(frozen=True)
class CharacterSet:
    r"""One value of Specific Character Set.

    Attributes
    ----------
    terms : the element's value, several terms joined by a backslash; empty for the default repertoire
    """

    terms: str
    _encodings: list[str] = field(init=False, repr=False, compare=False)
    _default_first: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        terms = [term.strip() for term in self.terms.split("\\")]
        try:
            encodings = convert_encodings(terms)
        except (LookupError, ValueError):
            encodings = ["iso8859"]
        object.__setattr__(self, "_encodings", list(encodings))
        object.__setattr__(self, "_default_first", terms[0] in _DEFAULT_TERMS or encodings == ["iso8859"])

    def decode(self, raw: bytes, *, name: bool = False) -> str:
        """Return the text of a value; bytes that mean nothing in this set are replaced, never refused.

        The whole value is decoded before anything splits it: in several sets the second byte of a
        character can be the code of "=" or of a backslash.
        """
        if raw.isascii() and b"\x1b" not in raw:
            return raw.decode("ascii")
        if not self.terms:
            return _decode_unlabelled(raw)
        try:
            text: str = decode_bytes(raw, self._encodings, _DELIMITER_BYTES[name])
            return text.replace(_TO_GB_2312, "") if "iso_ir_58" in self._encodings else text
        except (LookupError, ValueError):
            return raw.decode("utf-8", "replace")

    def encode(self, text: str, *, name: bool = False) -> bytes | None:
        """Return `text` encoded, or None if this set cannot hold it."""
        if text.isascii():
            return text.encode("ascii")
        if not all(self._holds(character) for character in text):
            return None
        if len(self._encodings) == 1:
            return text.encode(self._encodings[0])
        delimiters = _NAME_DELIMITERS if name else _TEXT_DELIMITERS
        encoded = b"".join(
            part.encode("ascii") if part in delimiters else self._encode_part(part)
            for part in re.split(f"([{re.escape(delimiters)}])", text)
            if part
        )
        return encoded if self.decode(encoded, name=name) == text else None

    def _encode_part(self, part: str) -> bytes:
        """Encode what stands between two delimiters, with the escapes that it needs."""
        if "iso_ir_58" in self._encodings and not part.isascii():
            try:
                return _TO_GB_2312.encode("ascii") + part.encode("gb2312")
            except UnicodeEncodeError:
                pass
        encoded: bytes = encode_string(part, self._encodings)
        return encoded

    def _holds(self, character: str) -> bool:
        if character.isascii():
            return True
        usable = self._encodings[1:] if self._default_first else self._encodings
        return any(_can_encode(character, encoding) for encoding in usable)


@lru_cache(maxsize=4096)
def _can_encode(character: str, encoding: str) -> bool:
    try:
        encoded = character.encode(encoding)
    except (LookupError, UnicodeError):
        return False
    return len(encoded) == 1 or encoding != "shift_jis"  # JIS X 0201 is the part of one byte


def _decode_unlabelled(raw: bytes) -> str:
    """Decode what should be ASCII: many senders forget to say that it is UTF-8, or Latin-1."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
