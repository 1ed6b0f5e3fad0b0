"""Person names as they are compared: without case, accents, and empty components at the end.

PS3.5 6.2.1.1: a name has up to three component groups (alphabetic, ideographic, phonetic) separated by
"=", each of up to five components separated by "^".
"""

import re
import unicodedata
from functools import lru_cache

GROUPS = 3

# Letters that Unicode does not decompose into a base letter and a mark, as names are usually written
# without them.
_UNDECOMPOSED = str.maketrans(
    {"ø": "o", "đ": "d", "ð": "d", "ł": "l", "æ": "ae", "œ": "oe", "ı": "i", "þ": "th"}
)
_WHITESPACE = re.compile(r"\s+")
_AROUND_CARET = re.compile(r"\s*\^\s*")


@lru_cache(maxsize=4096)
def fold(group: str) -> str:
    """Return one component group as it is compared; wildcards pass through unchanged.

    Compatibility forms are unified (full-width letters, half-width kana), case folded, combining marks
    of letters removed, whitespace collapsed, and empty components at the end dropped.

    >>> fold("MÜLLER ^ Jörg^^")
    'muller^jorg'
    """
    if group.isascii():
        folded = group.lower()
    else:
        folded = unicodedata.normalize("NFKD", group).casefold()
        folded = "".join(c for c in unicodedata.normalize("NFKD", folded) if not _is_accent(c))
        folded = unicodedata.normalize("NFC", folded).translate(_UNDECOMPOSED)
    folded = _AROUND_CARET.sub("^", _WHITESPACE.sub(" ", folded))
    return folded.strip(" ").rstrip("^ ")


def _is_accent(character: str) -> bool:
    """Say whether `character` is a combining mark that a reader may leave out.

    The voicing marks of kana (U+3099, U+309A) are not: they make another syllable.
    """
    return unicodedata.category(character) == "Mn" and character not in "\u3099\u309a"


def folded_groups(name: str) -> tuple[str, str, str]:
    """Return the three folded component groups of a name, empty where it has none."""
    groups = [fold(group) for group in name.split("=")[:GROUPS]]
    groups += [""] * (GROUPS - len(groups))
    return groups[0], groups[1], groups[2]


def folded_values(names: str) -> str:
    r"""Return all component groups of all `names` (joined by "\"), folded and joined by "\"."""
    groups = (fold(group) for name in names.split("\\") for group in name.split("="))
    return "\\".join(group for group in groups if group)
