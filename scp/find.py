"""What identifiers of the Query/Retrieve services mean as queries, and the answers (PS3.4 C.4.1 to C.4.3).

No network: bytes in, bytes out. A request that cannot be carried out raises an `IdentifierError`, which
carries the status to answer with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from dcmpress.scp.identifier import (
    FIXED,
    QUERY_RETRIEVE_LEVEL,
    AnswerEncoder,
    Identifier,
    IdentifierMismatchError,
    NewInstanceError,
    UnreadableIdentifierError,
    decode_identifier,
)
from dcmpress.storage.catalog.attributes import BY_KEYWORD, BY_TAG, UNIQUE_KEYS, Level
from dcmpress.storage.catalog.errors import QueryError
from dcmpress.storage.catalog.query import Key, Matching, Query

PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
COMPOSITE_INSTANCE_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.4.2"
COMPOSITE_INSTANCE_ROOT_GET = "1.2.840.10008.5.1.4.1.2.4.3"
COMPOSITE_INSTANCE_WITHOUT_BULK_DATA_GET = "1.2.840.10008.5.1.4.1.2.5.3"

_PATIENT_ROOT = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.IMAGE)
_STUDY_ROOT = (Level.STUDY, Level.SERIES, Level.IMAGE)
"""Here the attributes of the patient belong to the study (PS3.4 C.6.2.1)."""

FIND_LEVELS: Mapping[str, tuple[Level, ...]] = {
    PATIENT_ROOT_FIND: _PATIENT_ROOT,
    STUDY_ROOT_FIND: _STUDY_ROOT,
}
RETRIEVE_LEVELS: Mapping[str, tuple[Level, ...]] = {
    PATIENT_ROOT_MOVE: _PATIENT_ROOT,
    PATIENT_ROOT_GET: _PATIENT_ROOT,
    STUDY_ROOT_MOVE: _STUDY_ROOT,
    STUDY_ROOT_GET: _STUDY_ROOT,
    COMPOSITE_INSTANCE_ROOT_MOVE: (Level.IMAGE,),
    COMPOSITE_INSTANCE_ROOT_GET: (Level.IMAGE,),
    COMPOSITE_INSTANCE_WITHOUT_BULK_DATA_GET: (Level.IMAGE,),
}
"""SOP class UID -> levels of its information model, from the top."""


FRAME_LEVEL = "FRAME"
"""Below IMAGE in the composite instance root (PS3.4 table Y.6.1-1)."""


class Finds(Protocol):
    """What is needed of storage."""

    def find(self, query: Query) -> Iterator[dict[str, str]]:
        """Yield the matches of `query`: keyword -> text."""


@dataclass(frozen=True, slots=True)
class FindRequest:
    """A C-FIND request, and what was negotiated for its association.

    Attributes
    ----------
    sop_class_uid : of the presentation context
    identifier : the data set as it was on the wire
    transfer_syntax_uid : of the presentation context
    retrieve_ae_title : of this node, for the answers
    relational, fuzzy, combined_time, empty_values : extended negotiation (PS3.4 C.5.1.1)
    default_charset : terms to assume for a peer that names no character set but does not write ASCII
    """

    sop_class_uid: str
    identifier: bytes
    transfer_syntax_uid: str
    retrieve_ae_title: str
    relational: bool = False
    fuzzy: bool = False
    combined_time: bool = False
    empty_values: bool = False
    default_charset: str = ""


@dataclass(frozen=True, slots=True)
class FindAnswers:
    """What a C-FIND request is answered with.

    Attributes
    ----------
    identifiers : the encoded identifiers of the pending responses, read from the catalog as they are taken;
        to cancel, stop taking
    ignores_keys : a key has a value that is not matched (see the function)
    """

    identifiers: Iterator[bytes]
    ignores_keys: bool


def find_responses(catalog: Finds, request: FindRequest) -> FindAnswers:
    """Judge a request, and return the answers to it.

    Raises
    ------
    IdentifierError
        If the request cannot be carried out.
    """
    identifier = decode_identifier(request.identifier, request.transfer_syntax_uid, request.default_charset)
    query = find_query(request, identifier)
    encoder = AnswerEncoder(identifier, request.transfer_syntax_uid, request.retrieve_ae_title)
    answers = (encoder.encode(match) for match in catalog.find(query))
    return FindAnswers(answers, ignores_keys(identifier, query.level))


def ignores_keys(identifier: Identifier, level: Level) -> bool:
    """Say whether a key has a value that will not be matched, because the catalog does not keep the attribute or it
    belongs below the level, as Modality in a search for studies.

    Pending responses then have status FF01 instead of FF00 (PS3.4 table C.4-1).
    """
    return any(
        key.text.strip("*")
        and key.tag not in FIXED
        and (key.tag not in BY_TAG or BY_TAG[key.tag].level > level)
        for key in identifier.keys.values()
    )


def find_query(request: FindRequest, identifier: Identifier) -> Query:
    """Return the query that a C-FIND request makes; raises as `find_responses` does."""
    levels = FIND_LEVELS.get(request.sop_class_uid)
    if levels is None:
        raise IdentifierMismatchError(f"{request.sop_class_uid} is no query service of this node")
    level = _level(identifier, levels)
    texts = identifier.texts()
    if not request.relational:
        _check_unique_keys(texts, levels, level)
    keys = []
    for keyword, text in texts.items():
        attribute = BY_KEYWORD.get(keyword)
        if attribute is None or keyword == "SpecificCharacterSet":
            continue  # an optional key that is not supported: does not match, comes back empty
        try:
            keys.append(Key.parse(keyword, text, empty_values=request.empty_values))
        except QueryError as error:
            raise UnreadableIdentifierError(
                str(error), attribute.tag, loggable=f"{keyword} has a value that makes no sense"
            ) from error
    returned = tuple(keyword for keyword in texts if keyword in BY_KEYWORD)
    return Query(level, tuple(keys), returned, fuzzy=request.fuzzy, combined_time=request.combined_time)


def retrieve_query(
    sop_class_uid: str, identifier: bytes, transfer_syntax_uid: str, default_charset: str = ""
) -> Query:
    """Return the query for the instances that a C-GET or C-MOVE identifier describes.

    The unique key of the level must have a value, one or a list. Those above it are used when they are
    there; a UID says enough without them, and many workstations leave them out.

    Raises
    ------
    IdentifierError
        If the request cannot be carried out.
    """
    levels = RETRIEVE_LEVELS.get(sop_class_uid)
    if levels is None:
        raise IdentifierMismatchError(f"{sop_class_uid} is no retrieve service of this node")
    decoded = decode_identifier(identifier, transfer_syntax_uid, default_charset)
    if decoded.level == FRAME_LEVEL and sop_class_uid in (
        COMPOSITE_INSTANCE_ROOT_MOVE,
        COMPOSITE_INSTANCE_ROOT_GET,
    ):
        raise NewInstanceError("no new instances are made of single frames", QUERY_RETRIEVE_LEVEL)
    level = _level(decoded, levels)
    texts = decoded.texts()
    keys = []
    for upper in range(Level.PATIENT, level + 1):
        keyword = UNIQUE_KEYS[Level(upper)]
        key = Key.parse(keyword, texts.get(keyword, ""))
        if key.matching != Matching.UNIVERSAL:
            keys.append(_literal(key))
        elif upper == level:
            raise IdentifierMismatchError(
                f"a retrieve at level {level.name} needs {keyword}", BY_KEYWORD[keyword].tag
            )
    return Query(level, tuple(keys))


def _literal(key: Key) -> Key:
    """Return a Patient ID key of a retrieve as one that knows no wildcards (PS3.4 C.4.2.1.4.1)."""
    if key.matching == Matching.VALUES:
        return replace(key, matching=Matching.UIDS)
    return key


def _level(identifier: Identifier, levels: tuple[Level, ...]) -> Level:
    for level in levels:
        if level.name == identifier.level:
            return level
    known = ", ".join(level.name for level in levels)
    if not identifier.level:
        raise IdentifierMismatchError(f"no Query/Retrieve Level; there are {known}", QUERY_RETRIEVE_LEVEL)
    raise IdentifierMismatchError(
        f"level {identifier.level!r} is none of {known}",
        QUERY_RETRIEVE_LEVEL,
        loggable=f"the Query/Retrieve Level is none of {known}",
    )


def _check_unique_keys(texts: Mapping[str, str], levels: tuple[Level, ...], level: Level) -> None:
    """Check that a hierarchical search names every entity above its level (PS3.4 C.4.1.2.1)."""
    for upper in levels[: levels.index(level)]:
        keyword = UNIQUE_KEYS[upper]
        if not texts.get(keyword, "").strip("*"):
            raise IdentifierMismatchError(
                f"a search at level {level.name} needs {keyword}, as relational queries were not negotiated",
                BY_KEYWORD[keyword].tag,
            )
