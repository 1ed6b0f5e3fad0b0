"""The query model that C-FIND, C-MOVE, C-GET and QIDO-RS are translated into.

A query names a level, keys to match and keywords to return. What a key means follows from its value
representation and its text, as PS3.4 C.2.2.2 lays down; `Key.parse` decides it once for all services.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Self

from dcmpress.storage.catalog.attributes import BY_KEYWORD, Attribute, Level
from dcmpress.storage.catalog.errors import QueryError


class Matching(Enum):
    """The kinds of matching of PS3.4 C.2.2.2."""

    UNIVERSAL = "universal"
    VALUES = "values"
    """Single value or wildcard matching; several values are alternatives (C.2.2.2.8)."""
    UIDS = "list of UID"
    RANGE = "range"
    """Dates and times; `values` are pairs of lower and upper end, either of them possibly empty."""
    EMPTY = "empty value"


@dataclass(frozen=True, slots=True)
class Key:
    """One matching key."""

    attribute: Attribute
    matching: Matching
    values: tuple[str, ...] = ()

    @classmethod
    def parse(cls, keyword: str, text: str, *, empty_values: bool = False) -> Self:
        r"""Return the key that `text` (decoded, values joined by "\\") means for the attribute `keyword`.

        `empty_values` turns two quotation marks into empty value matching (C.2.2.2.7), which the peers
        have to negotiate.

        Raises
        ------
        QueryError
            If the catalog does not keep the attribute, or a date or time makes no sense.
        """
        attribute = BY_KEYWORD.get(keyword)
        if attribute is None:
            raise QueryError(f"the catalog does not keep {keyword}")
        vr = attribute.vr
        if empty_values and text.strip() == '""':
            return cls(attribute, Matching.EMPTY)
        values = [text.strip()] if vr in ("LT", "ST") else [value.strip() for value in text.split("\\")]
        if vr == "UI":
            values = [value.rstrip("\0") for value in values]
        values = [value for value in values if value]
        if not values or any(set(value) == {"*"} for value in values):
            return cls(attribute, Matching.UNIVERSAL)
        if vr == "UI":
            return cls(attribute, Matching.UIDS, tuple(dict.fromkeys(values)))
        if vr in _RANGE_FORMS:
            ends = (end for value in values for end in _range(vr, value, keyword))
            return cls(attribute, Matching.RANGE, tuple(ends))
        if vr == "CS":
            values = [value.upper() for value in values]
        return cls(attribute, Matching.VALUES, tuple(values))


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the catalog.

    Attributes
    ----------
    level : of the entities that are found
    keys : conditions that all must hold; those of a level below `level` are ignored
    returned : keywords wanted in each match; those that the catalog does not keep come back empty
    limit, offset : a page of the matches; None for all
    fuzzy : compare patients' names word by word, each from its beginning, in any order
    combined_time : take a date and its time as one value in range matching (PS3.4 C.2.2.2.5.4)
    """

    level: Level
    keys: tuple[Key, ...] = ()
    returned: tuple[str, ...] = ()
    limit: int | None = None
    offset: int = 0
    fuzzy: bool = False
    combined_time: bool = False

    @classmethod
    def of(cls, level: Level, texts: Mapping[str, str], returned: Iterable[str] = ()) -> Self:
        """Return the query for `texts` (keyword -> text of the key); unknown keywords do not match."""
        keys = tuple(Key.parse(keyword, text) for keyword, text in texts.items() if keyword in BY_KEYWORD)
        return cls(level, keys, tuple(dict.fromkeys([*texts, *returned])))


_RANGE_FORMS = {
    "DA": re.compile(r"\d{4}(\d{2}(\d{2})?)?"),
    "TM": re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
    "DT": re.compile(r"\d{4}(\d{2}){0,5}(\.\d{1,6})?"),
}
_OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d(?=-|$)")
"""The offset from UTC at the end of a DT value; a year before 1500 is taken for one."""


def _range(vr: str, text: str, keyword: str) -> tuple[str, str]:
    """Return lower and upper end of a date or time key; both are the same for a single value."""
    if vr == "DT":
        text = _OFFSET.sub("", text)  # timezone adjustment is not offered in negotiation
    elif vr == "DA":
        text = text.replace(".", "")
    else:
        text = text.replace(":", "")
    low, dash, high = (part.strip() for part in text.partition("-"))
    if not dash:
        high = low
    for end in (low, high):
        if end and not _RANGE_FORMS[vr].fullmatch(end):
            raise QueryError(f"{keyword}: {text!r} is no {vr} value or range")
    return low, high
