"""Finding: queries run against the catalog, answered in batches.

First the keys of all matches are read, eight bytes each, then their values a batch at a time. Nothing is
held open in between: a peer that takes its answers slowly holds up neither SQLite's checkpoint nor
PostgreSQL's vacuum, and memory stays bounded whatever a query matches.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from dcmpress.storage.catalog.attributes import BY_KEYWORD, Attribute, Level
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.matching import TABLES, conditions, visible
from dcmpress.storage.catalog.models import Blob
from dcmpress.storage.catalog.query import Key, Matching, Query

BATCH = 250
"""Matches whose values are read at a time."""

_LONGEST_LIST = 5000
"""UIDs in one statement; PostgreSQL takes 65,535 parameters, SQLite 32,766."""

Match = dict[str, str]
"""Keyword -> text of one match, values joined by a backslash; empty where there is none."""

_PATIENT, _STUDY, _SERIES, _INSTANCE = TABLES.values()
_BLOB: Any = Blob.__table__

_UP: dict[Level, tuple[Any, Any]] = {
    Level.STUDY: (_STUDY, _STUDY.c.pk == _SERIES.c.study_pk),
    Level.SERIES: (_SERIES, _SERIES.c.pk == _INSTANCE.c.series_pk),
    Level.PATIENT: (_PATIENT, _PATIENT.c.pk == _STUDY.c.patient_pk),
}
"""Level -> its table and how the level below refers to it."""


@dataclass(frozen=True, slots=True)
class Located:
    """One version of an instance, and where its bytes are."""

    instance_pk: int
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    """Bytes of the data set."""
    sha256: bytes
    received_at: datetime
    calling_ae: str
    called_ae: str
    remote_host: str
    current: bool
    """Whether this is the version that is found and served."""
    damaged: bool
    """Whether the stored bytes are known to be wrong."""
    spool_name: str | None
    blob_name: str | None
    blob_index: int | None


_LOCATED = (
    select(
        _INSTANCE.c.pk,
        _STUDY.c.study_instance_uid,
        _SERIES.c.series_instance_uid,
        _INSTANCE.c.sop_class_uid,
        _INSTANCE.c.sop_instance_uid,
        _INSTANCE.c.available_transfer_syntax_uid,
        _INSTANCE.c.size,
        _INSTANCE.c.sha256,
        _INSTANCE.c.received_at,
        _INSTANCE.c.calling_ae,
        _INSTANCE.c.called_ae,
        _INSTANCE.c.remote_host,
        _INSTANCE.c.current,
        _INSTANCE.c.damaged,
        _INSTANCE.c.spool_name,
        _BLOB.c.name,
        _INSTANCE.c.blob_index,
    )
    .select_from(_INSTANCE)
    .join(_SERIES, _SERIES.c.pk == _INSTANCE.c.series_pk)
    .join(_STUDY, _STUDY.c.pk == _SERIES.c.study_pk)
    .outerjoin(_BLOB, _BLOB.c.pk == _INSTANCE.c.blob_pk)
)
_OF_UID = _LOCATED.where(_INSTANCE.c.sop_instance_uid == bindparam("uid"))
_CURRENT_OF_UID = _OF_UID.where(_INSTANCE.c.current)
_OLDER_OF_UID = _OF_UID.where(~_INSTANCE.c.current, ~_INSTANCE.c.replaced).order_by(
    _INSTANCE.c.received_at.desc(), _INSTANCE.c.pk.desc()
)
_IN_SPOOL = _LOCATED.where(_INSTANCE.c.spool_name == bindparam("name"))
_IN_BLOB = _LOCATED.where(_BLOB.c.name == bindparam("name")).order_by(_INSTANCE.c.blob_index)


def find(database: Database, query: Query) -> Iterator[Match]:
    """Yield the matches of `query`: patients and studies the newest first, series and instances in order.

    Each match has the keywords of `query.returned`, in their order. Only what has an instance that is
    served is found. An entity that goes while its turn has not come is left out.
    """
    keys = _matching_keys(database, query)
    for start in range(0, len(keys), BATCH):
        with database.reading() as connection:
            matches = _matches(connection, query.level, keys[start : start + BATCH], query.returned)
        yield from matches


def count(database: Database, query: Query) -> int:
    """Return how many matches `query` has, its page aside."""
    return len(_matching_keys(database, replace(query, limit=None, offset=0)))


def locate(database: Database, query: Query) -> list[Located]:
    """Return the instances that the keys of `query` describe, whatever its level, ready to be read.

    Ordered so that neighbours in a blob follow each other.
    """
    query = replace(query, level=Level.IMAGE)
    found: list[Located] = []
    for piece in _pieces(query):
        tests = conditions(piece)
        statement = _LOCATED.where(_INSTANCE.c.current, *(test for _, test in tests))
        if any(level == Level.PATIENT for level, _ in tests):
            statement = statement.join(_PATIENT, _PATIENT.c.pk == _STUDY.c.patient_pk)
        with database.reading() as connection:
            rows: Any = connection.execute(statement)
            found += [Located(*row) for row in rows]
    found.sort(key=_reading_order)
    return found


def _reading_order(located: Located) -> tuple[Any, ...]:
    return (located.blob_name or "", located.blob_index or 0, located.instance_pk)


def current_version(database: Database, sop_instance_uid: str) -> Located | None:
    """Return the version of an instance that is served, or None if there is no such instance."""
    with database.reading() as connection:
        row: Any = connection.execute(_CURRENT_OF_UID, {"uid": sop_instance_uid}).first()
    return None if row is None else Located(*row)


def versions(database: Database, sop_instance_uid: str) -> list[Located]:
    """Return every version of an instance, the one that is served first, then the newest first."""
    with database.reading() as connection:
        rows: Any = [
            *connection.execute(_CURRENT_OF_UID, {"uid": sop_instance_uid}),
            *connection.execute(_OLDER_OF_UID, {"uid": sop_instance_uid}),
        ]
    return [Located(*row) for row in rows]


def in_blob(database: Database, blob_name: str) -> list[Located]:
    """Return everything that lies in a blob, in its order there."""
    with database.reading() as connection:
        rows: Any = connection.execute(_IN_BLOB, {"name": blob_name})
        return [Located(*row) for row in rows]


def in_spool(database: Database, spool_name: str) -> list[Located]:
    """Return the instance that lies in a spool file, if there is one."""
    with database.reading() as connection:
        rows: Any = connection.execute(_IN_SPOOL, {"name": spool_name})
        return [Located(*row) for row in rows]


def keys_statement(query: Query) -> Any:
    """Return the statement for the keys of the matches of `query`."""
    tests = conditions(query)
    table = TABLES[query.level]
    top = min([query.level, *(level for level, _ in tests)])
    statement = select(table.c.pk).select_from(_joined(query.level, top))
    statement = statement.where(*(test for _, test in tests), visible(query.level))
    # With a condition, the order must not tempt the planner away from the condition's index.
    order = table.c.pk + 0 if tests else table.c.pk
    statement = statement.order_by(order.desc() if query.level <= Level.STUDY else order)
    if query.limit is not None:
        statement = statement.limit(query.limit)
    return statement.offset(query.offset) if query.offset else statement


@cache
def _joined(level: Level, top: Level) -> Any:
    """Return the tables from `level` up to `top`, joined."""
    joined = TABLES[level]
    for upper in range(level - 1, top - 1, -1):
        table, on = _UP[Level(upper)]
        joined = joined.join(table, on)
    return joined


def _matching_keys(database: Database, query: Query) -> "array[int]":
    keys = array("q")
    pieces = list(_pieces(query))
    with database.reading() as connection:
        for piece in pieces:
            for rows in connection.execute(keys_statement(piece)).partitions(5000):
                keys.extend(row[0] for row in rows)
    if len(pieces) > 1:
        end = None if query.limit is None else query.offset + query.limit
        keys = keys[query.offset : end]
    return keys


def _pieces(query: Query) -> Iterator[Query]:
    """Yield queries that together ask for the same, with no list of UIDs too long for a statement."""
    for key in query.keys:
        if key.matching == Matching.UIDS and len(key.values) > _LONGEST_LIST:
            others = tuple(other for other in query.keys if other is not key)
            for start in range(0, len(key.values), _LONGEST_LIST):
                part = Key(key.attribute, key.matching, key.values[start : start + _LONGEST_LIST])
                yield from _pieces(replace(query, keys=(*others, part), limit=None, offset=0))
            return
    yield query


def _matches(
    connection: Connection, level: Level, keys: Sequence[int], returned: tuple[str, ...]
) -> list[Match]:
    """Return the matches with `keys`, in that order."""
    statement, stored, computed = _values_statement(level, returned)
    rows = connection.execute(statement, {"keys": list(keys)}).mappings()
    by_key = {row["key"]: row for row in rows}
    found = [by_key[key] for key in keys if key in by_key]
    owners = {column: {row[column] for row in found} for column in {column for _, column in computed}}
    values = {keyword: _COMPUTED[keyword](connection, list(owners[column])) for keyword, column in computed}
    blank = dict.fromkeys(returned, "")
    matches = []
    for row in found:
        match = blank.copy()
        for keyword, column in stored:
            value = row[column]
            if value is not None:
                match[keyword] = value if value.__class__ is str else str(value)
        for keyword, column in computed:
            match[keyword] = values[keyword].get(row[column], "")
        matches.append(match)
    return matches


@lru_cache(maxsize=256)
def _values_statement(
    level: Level, returned: tuple[str, ...]
) -> tuple[Any, list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the statement for a batch, and which column of it each keyword comes from.

    Computed keywords name the column that holds the key of their owner instead.
    """
    wanted = [BY_KEYWORD[keyword] for keyword in returned if keyword in BY_KEYWORD]
    wanted = [attribute for attribute in wanted if attribute.level <= level]
    top = min([level, *(attribute.level for attribute in wanted)])
    columns: dict[str, Any] = {"key": TABLES[level].c.pk}
    stored, computed = [], []
    for attribute in wanted:
        name = _column_name(attribute)
        if attribute.origin == "computed":
            columns[name] = TABLES[attribute.level].c.pk
            computed.append((attribute.keyword, name))
        else:
            columns[name] = TABLES[attribute.level].c[attribute.column]
            stored.append((attribute.keyword, name))
    statement = select(*(column.label(name) for name, column in columns.items()))
    statement = statement.select_from(_joined(level, top))
    return statement.where(TABLES[level].c.pk.in_(bindparam("keys", expanding=True))), stored, computed


def _column_name(attribute: Attribute) -> str:
    return f"{attribute.level.name.lower()}_key" if attribute.origin == "computed" else attribute.keyword


def _texts_of(statement: Any) -> Callable[[Connection, list[int]], dict[int, str]]:
    """Return a function from keys of owners to their values, several joined by a backslash, sorted."""

    def texts(connection: Connection, owners: list[int]) -> dict[int, str]:
        values: dict[int, list[str]] = {}
        for owner, value in connection.execute(statement, {"owners": owners}):
            if value is not None:
                values.setdefault(owner, []).append(str(value))
        return {owner: "\\".join(sorted(found)) for owner, found in values.items()}

    return texts


def _related(owner: Any, value: Any, level: Level, top: Level, *, group: bool = False) -> Any:
    """Return a statement of (owner, value) over what is visible at `level`."""
    statement = select(owner, value).select_from(_joined(level, top)).where(visible(level))
    statement = statement.where(owner.in_(bindparam("owners", expanding=True)))
    return _texts_of(statement.group_by(owner) if group else statement.distinct())


_COMPUTED: dict[str, Callable[[Connection, list[int]], dict[int, str]]] = {
    "NumberOfPatientRelatedStudies": _related(
        _STUDY.c.patient_pk, func.count(), Level.STUDY, Level.STUDY, group=True
    ),
    "NumberOfPatientRelatedSeries": _related(
        _STUDY.c.patient_pk, func.count(), Level.SERIES, Level.STUDY, group=True
    ),
    "NumberOfPatientRelatedInstances": _related(
        _STUDY.c.patient_pk, func.count(), Level.IMAGE, Level.STUDY, group=True
    ),
    "ModalitiesInStudy": _related(_SERIES.c.study_pk, _SERIES.c.modality, Level.SERIES, Level.SERIES),
    "SOPClassesInStudy": _related(_SERIES.c.study_pk, _INSTANCE.c.sop_class_uid, Level.IMAGE, Level.SERIES),
    "NumberOfStudyRelatedSeries": _related(
        _SERIES.c.study_pk, func.count(), Level.SERIES, Level.SERIES, group=True
    ),
    "NumberOfStudyRelatedInstances": _related(
        _SERIES.c.study_pk, func.count(), Level.IMAGE, Level.SERIES, group=True
    ),
    "NumberOfSeriesRelatedInstances": _related(
        _INSTANCE.c.series_pk, func.count(), Level.IMAGE, Level.IMAGE, group=True
    ),
}
