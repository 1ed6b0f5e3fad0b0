"""Finding: queries run against the catalog, answered in batches.

A query with few matches, as nearly all have, is one statement. Otherwise first the keys of all matches are read,
eight bytes each, then their values a batch at a time. Nothing is held open in between: a peer that takes its
answers slowly holds up neither SQLite's checkpoint nor PostgreSQL's vacuum, and memory stays bounded whatever a
query matches.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import bindparam, literal, select

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.conditions import TABLES, condition
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.matching import query_tests
from dcmpress.storage.catalog.models import Blob
from dcmpress.storage.catalog.query import Key, Matching, Query
from dcmpress.storage.catalog.statements import BATCH, Match, Selection, keys_select, matches_of, selection
from dcmpress.storage.received import Form

_LONGEST_LIST = 5000
"""UIDs in one statement; PostgreSQL takes 65,535 parameters, SQLite 32,766."""

_PATIENT, _STUDY, _SERIES, _INSTANCE = TABLES.values()
_BLOB: Any = Blob.__table__


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
    received_transfer_syntax_uid: str | None = None
    received_size: int | None = None
    received_sha256: bytes | None = None
    """What was received, where another encoding of it is kept: transfer syntax, size and SHA-256 are of that."""

    @property
    def received(self) -> Form | None:
        """What was received, if its bytes are not kept."""
        if (
            self.received_transfer_syntax_uid is None
            or self.received_size is None
            or self.received_sha256 is None
        ):
            return None
        return Form(self.received_transfer_syntax_uid, self.received_size, self.received_sha256)

    def stands_for(self, sha256: bytes) -> bool:
        """Tell whether the data set with this SHA-256 is kept, or was received and is kept in another encoding."""
        return sha256 in (self.sha256, self.received_sha256)


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
        _INSTANCE.c.received_transfer_syntax_uid,
        _INSTANCE.c.received_size,
        _INSTANCE.c.received_sha256,
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
    is_one_piece = _is_one_piece(query)
    found = selection(database.dialect, query if is_one_piece else replace(query, keys=()))
    if is_one_piece:
        matches = _few(database, query, found)
        if matches is not None:
            yield from matches
            return
    keys = _matching_keys(database, query)
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        rows = {row[0]: row for row in database.rows(found.of_keys(len(part)), found.padded(part))}
        yield from matches_of(database, found, [rows[key] for key in part if key in rows])


def _few(database: Database, query: Query, found: Selection) -> list[Match] | None:
    """Return the matches if they are one batch at most, else None."""
    limit = BATCH + 1 if query.limit is None else min(query.limit, BATCH + 1)
    values = [value for _, test in query_tests(query) for value in test.values]
    rows = database.rows(found.first, [*values, limit, query.offset])
    if len(rows) > BATCH:
        return None
    rows.sort(key=itemgetter(0), reverse=query.level <= Level.STUDY)
    return matches_of(database, found, rows)


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
        tests = query_tests(piece)
        where = [condition(test.form, map(literal, test.values)) for _, test in tests]
        statement = _LOCATED.where(_INSTANCE.c.current, *where)
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


def known(database: Database, sop_instance_uids: Sequence[str]) -> set[str]:
    """Return those of the UIDs of which there is a version that is served; a few hundred at a time."""
    statement = select(_INSTANCE.c.sop_instance_uid).where(
        _INSTANCE.c.sop_instance_uid.in_(sop_instance_uids), _INSTANCE.c.current
    )
    with database.reading() as connection:
        return set(connection.execute(statement).scalars())


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
    tests = query_tests(query)
    values = (literal(value) for _, test in tests for value in test.values)
    statement = keys_select(query.level, tuple((level, test.form) for level, test in tests), values)
    if query.limit is not None:
        statement = statement.limit(query.limit)
    return statement.offset(query.offset) if query.offset else statement


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


def _is_one_piece(query: Query) -> bool:
    return all(key.matching != Matching.UIDS or len(key.values) <= _LONGEST_LIST for key in query.keys)


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
