"""Attribute values as the catalog keeps them: clean, bounded and comparable as text.

A catalog entry must never be refused because a sender wrote something odd, so nothing here raises: what
makes no sense becomes None, and the data set itself is kept exactly elsewhere.
"""

import hashlib
import re
from functools import lru_cache

from dcmpress.storage.catalog.attributes import INTEGER_VRS

LONGEST_TEXT = 512
"""Characters. At four bytes each still less than the 2,704 bytes that a PostgreSQL index entry may have."""
LONGEST_NOTE = 10240
"""Characters of LT and ST values, which no index holds (LT: PS3.5 table 6.2-1)."""
LONGEST_UID = 128
"""Characters. PS3.5 allows 64; some senders write more."""

_NOTES = frozenset({"LT", "ST", "UT"})
_CONTROLS = re.compile("[\x01-\x1f\x7f]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")


@lru_cache(maxsize=4096)  # most values are those of the series' instance before
def stored_value(vr: str, text: str) -> str | int | None:
    """Return `text` as it goes into a column for `vr`; None when nothing is left of it."""
    if vr in INTEGER_VRS:
        match = _INTEGER.fullmatch(text.strip())
        return int(match[0]) if match else None
    text = clean(text)
    if vr in _NOTES:
        return text.rstrip()[:LONGEST_NOTE] or None
    text = _CONTROLS.sub(" ", text)
    if "\\" in text:
        text = "\\".join(value.strip() for value in text.split("\\"))
    else:
        text = text.strip()
    if vr == "DA":
        text = text.replace(".", "")  # ACR-NEMA wrote 1999.12.31
    elif vr == "TM":
        text = text.replace(":", "")  # ... and 23:59:59
    return text[:LONGEST_TEXT].strip("\\") or None


def clean(text: str) -> str:
    """Return `text` without what no database takes: NUL and halves of surrogate pairs."""
    if text.isascii():
        return text.replace("\0", "")
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def stored_uid(text: str | None) -> str | None:
    """Return a UID without padding, or None if there is none that could be kept."""
    uid = clean(text or "").strip()
    return uid if 0 < len(uid) <= LONGEST_UID and "\\" not in uid else None


def placeholder_uid(purpose: str, sop_instance_uid: str) -> str:
    """Return the UID that stands in for a missing one; the same for the same instance, always.

    A name-based UUID in the form of PS3.5 B.2, so that a rebuilt catalog finds the same study again.
    """
    digest = hashlib.sha256(f"dcmpress {purpose} {sop_instance_uid}".encode()).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76  # version 8: a digest of our own choosing (RFC 9562)
    number = number & ~(0x3 << 62) | 2 << 62
    return f"2.25.{number}"
