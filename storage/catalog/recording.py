"""Entering received data sets: one short transaction for each, before it is acknowledged.

Any number of threads and processes may record instances of one new study at once: every row is entered
with ON CONFLICT DO NOTHING against a unique key, and whoever comes second reads what the first entered.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.entering import COLUMNS, Entering, columns_for
from dcmpress.storage.catalog.insertion import CurrentInsertion
from dcmpress.storage.catalog.models import Base, Instance, Patient, Series, Study
from dcmpress.storage.received import Received

OnConflict = Literal["keep-both", "reject", "replace"]

CACHED_SERIES = 4096
"""Series whose keys are remembered between instances."""


class Outcome(Enum):
    """What recording an instance came to."""

    NEW = "new"
    """Recorded; no other version is known."""
    DUPLICATE = "duplicate"
    """These bytes are stored already; the caller drops its spool file."""
    KEPT_BOTH = "kept both"
    """Recorded beside the older version, which is no longer served."""
    REPLACED = "replaced"
    """Recorded in place of the older version."""
    REJECTED = "rejected"
    """Not recorded, because another version is stored; the caller drops its spool file."""
    HEALED = "healed"
    """These bytes were stored, but damaged; the catalog now points at the caller's spool file."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of `Recorder.record`."""

    outcome: Outcome
    instance_pk: int
    """The version with these bytes; for REJECTED, the version that stays."""
    superseded_spool: str | None = None
    """Another file in the spool that nothing needs any more: the caller deletes it."""


@dataclass(frozen=True, slots=True)
class _SeriesEntry:
    """A known series, the identity of its patient, and which of their columns are still empty."""

    series_pk: int
    identity: str
    open: Mapping[str, tuple[type[Base], int]]
    """Keyword -> (model, key) of the row that has no value for it yet."""


_FIND_PATIENT = select(Patient.__table__).where(Patient.identity == bindparam("identity"))
_FIND_PATIENT_BY_KEY = select(Patient.__table__).where(Patient.pk == bindparam("pk"))
_FIND_STUDY = select(Study.__table__).where(Study.study_instance_uid == bindparam("study_instance_uid"))
_FIND_SERIES = select(Series.__table__).where(
    Series.study_pk == bindparam("study_pk"), Series.series_instance_uid == bindparam("series_instance_uid")
)
_VERSION = select(
    Instance.pk,
    Instance.sha256,
    Instance.spool_name,
    Instance.damaged,
    Instance.received_at,
    Instance.replaced,
).where(Instance.sop_instance_uid == bindparam("uid"))
_FIND_CURRENT = _VERSION.where(Instance.current).with_for_update()
_FIND_OLDER = _VERSION.where(~Instance.current, Instance.sha256 == bindparam("sha256"))
_SET_CURRENT = update(Instance).where(Instance.pk == bindparam("key")).values(current=bindparam("current"))
_INSERT_INSTANCE = insert(Instance).returning(Instance.pk)


class Recorder:
    """Records received data sets in a catalog's database; safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache = _SeriesCache(CACHED_SERIES)
        dialect_insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
        self._insert_or_nothing = {
            model: dialect_insert(model).on_conflict_do_nothing() for model in (Patient, Study, Series)
        }
        self._insertion = CurrentInsertion(database)

    def record(
        self,
        received: Received,
        attributes: Mapping[str, str],
        on_conflict: OnConflict,
        needs_attention: str | None = None,
    ) -> Recorded:
        """Record a data set that is safe in the spool. Repeating a call changes nothing.

        Parameters
        ----------
        received : the facts of its receipt
        attributes : keyword -> decoded text, values joined by a backslash; missing ones absent
        on_conflict : what happens when another data set with this SOP Instance UID is stored
        needs_attention : why a person should look at the instance, if one should
        """
        entering = Entering(received, attributes, needs_attention)
        try:
            return self._record(entering, on_conflict)
        except IntegrityError:
            # The series was known here, but another process has removed it since.
            if not self._cache.forget(entering.series_key):
                raise
            return self._record(entering, on_conflict)

    def record_stored(
        self,
        connection: Connection,
        received: Received,
        attributes: Mapping[str, str],
        blob_pk: int,
        blob_index: int,
    ) -> Recorded:
        """Record a data set that lies in a blob already, inside the caller's transaction (a rebuild)."""
        entering = Entering(received, attributes, None)
        entry = self._fill(connection, self._enter_series(connection, entering), entering)
        place = {"spool_name": None, "blob_pk": blob_pk, "blob_index": blob_index}
        return self._enter(connection, entering.row(entry.series_pk, entry.identity) | place, "keep-both")

    def _record(self, entering: Entering, on_conflict: OnConflict) -> Recorded:
        known = self._cache.get(entering.series_key)
        if known is not None and not _fillable(known, entering):  # one of a series, as nearly all are
            pk = self._insertion.run_alone(entering.row(known.series_pk, known.identity))
            if pk is not None:
                return Recorded(Outcome.NEW, pk)
        with self._database.writing() as connection:
            entry = known or self._enter_series(connection, entering)
            entry = self._fill(connection, entry, entering)
            recorded = self._enter(connection, entering.row(entry.series_pk, entry.identity), on_conflict)
        if entry is not known:  # remembered only now that it is committed
            self._cache.put(entering.series_key, entry)
        return recorded

    def _enter_series(self, connection: Connection, entering: Entering) -> _SeriesEntry:
        """Return the entry of the instance's series; enter patient, study and series that are missing."""
        study_uid, series_uid = entering.series_key
        study = _first(connection, _FIND_STUDY, {"study_instance_uid": study_uid})
        if study is None:
            patient = self._find_or_enter(
                connection,
                Patient,
                _FIND_PATIENT,
                {"identity": entering.identity},
                entering.values(Level.PATIENT),
            )
            study = self._find_or_enter(
                connection,
                Study,
                _FIND_STUDY,
                {"study_instance_uid": study_uid},
                entering.values(Level.STUDY) | {"patient_pk": patient["pk"]},
            )
        patient = _first(connection, _FIND_PATIENT_BY_KEY, {"pk": study["patient_pk"]})
        series = self._find_or_enter(
            connection,
            Series,
            _FIND_SERIES,
            {"study_pk": study["pk"], "series_instance_uid": series_uid},
            entering.values(Level.SERIES),
        )
        rows = (
            (Patient, patient, Level.PATIENT),
            (Study, study, Level.STUDY),
            (Series, series, Level.SERIES),
        )
        empty = {
            keyword: (model, row["pk"])
            for model, row, level in rows
            for keyword, (column, _vr) in COLUMNS[level].items()
            if row[column] is None
        }
        return _SeriesEntry(series["pk"], patient["identity"], empty)

    def _find_or_enter(
        self, connection: Connection, model: Any, find: Any, key: dict[str, Any], values: dict[str, Any]
    ) -> Any:
        row = _first(connection, find, key)
        if row is None:
            connection.execute(self._insert_or_nothing[model], values | key)
            row = _first(connection, find, key)
        return row

    @staticmethod
    def _fill(connection: Connection, entry: _SeriesEntry, entering: Entering) -> _SeriesEntry:
        """Give columns that are still empty the values that this instance has for them."""
        found = _fillable(entry, entering)
        if not found:
            return entry
        for keyword in found:
            model, pk = entry.open[keyword]
            column, values = columns_for(keyword, entering.attributes[keyword])
            if values[column] is not None:
                table: Any = model.__table__
                connection.execute(
                    update(table).where(table.c.pk == pk, table.c[column].is_(None)).values(values)
                )
        still_open = {keyword: row for keyword, row in entry.open.items() if keyword not in found}
        return replace(entry, open=still_open)

    def _enter(self, connection: Connection, row: dict[str, Any], on_conflict: OnConflict) -> Recorded:
        while True:
            pk = self._insertion.run(connection, row)
            if pk is not None:
                return Recorded(Outcome.NEW, pk)
            current = connection.execute(_FIND_CURRENT, {"uid": row["sop_instance_uid"]}).first()
            if current is not None:  # else another process has just removed it: enter anew
                return self._resolve(connection, row, current, on_conflict)

    def _resolve(
        self, connection: Connection, row: dict[str, Any], current: Any, on_conflict: OnConflict
    ) -> Recorded:
        """Decide between `row` and the `current` version with the same SOP Instance UID."""
        if current.sha256 == row["sha256"]:
            return self._known_bytes(connection, row, current, Outcome.NEW)
        lookup = {"uid": row["sop_instance_uid"], "sha256": row["sha256"]}
        older = connection.execute(_FIND_OLDER, lookup).first()
        if on_conflict == "reject" and older is None:
            return Recorded(Outcome.REJECTED, current.pk)
        if older is not None and (on_conflict == "reject" or _same_file(older, row)):
            return self._known_bytes(connection, row, older, Outcome.KEPT_BOTH)
        if row["received_at"] < current.received_at:  # after a crash, out of order: both are kept
            pk = connection.execute(_INSERT_INSTANCE, row | {"current": False}).scalar_one()
            return Recorded(Outcome.KEPT_BOTH, pk)
        superseded = self._retire(connection, current, on_conflict)
        if older is not None:  # an earlier version came back: it is served again
            recorded = self._known_bytes(connection, row, older, Outcome.KEPT_BOTH)
            connection.execute(
                update(Instance).where(Instance.pk == older.pk).values(current=True, replaced=False)
            )
            return replace(recorded, superseded_spool=recorded.superseded_spool or superseded)
        pk = connection.execute(_INSERT_INSTANCE, row).scalar_one()
        outcome = Outcome.REPLACED if on_conflict == "replace" else Outcome.KEPT_BOTH
        return Recorded(outcome, pk, superseded)

    @staticmethod
    def _known_bytes(
        connection: Connection, row: dict[str, Any], version: Any, same_file: Outcome
    ) -> Recorded:
        """Handle bytes that `version` holds already; `same_file` if it is the caller's spool file."""
        if _same_file(version, row):
            return Recorded(same_file, version.pk)
        if not version.damaged:
            return Recorded(Outcome.DUPLICATE, version.pk)
        connection.execute(
            update(Instance)
            .where(Instance.pk == version.pk)
            .values(
                spool_name=row["spool_name"],
                blob_pk=row["blob_pk"],
                blob_index=row["blob_index"],
                damaged=False,
            )
        )
        return Recorded(Outcome.HEALED, version.pk, version.spool_name)

    @staticmethod
    def _retire(connection: Connection, current: Any, on_conflict: OnConflict) -> str | None:
        """Take `current` out of service; return its spool file if nothing needs that any more."""
        if on_conflict == "replace" and current.spool_name is not None:
            connection.execute(delete(Instance).where(Instance.pk == current.pk))
            name: str = current.spool_name
            return name
        connection.execute(_SET_CURRENT, {"key": current.pk, "current": False})
        if on_conflict == "replace":
            connection.execute(update(Instance).where(Instance.pk == current.pk).values(replaced=True))
        return None


def _first(connection: Connection, statement: Any, parameters: dict[str, Any]) -> Any:
    return connection.execute(statement, parameters).mappings().first()


def _fillable(entry: _SeriesEntry, entering: Entering) -> set[str]:
    """Return the keywords that the series, its study or its patient lack and this instance has."""
    return entry.open.keys() & entering.attributes.keys() if entry.identity == entering.identity else set()


def _same_file(version: Any, row: dict[str, Any]) -> bool:
    """Say whether `version` is the very spool file of `row`: the call is being repeated."""
    return version.spool_name is not None and version.spool_name == row["spool_name"]


class _SeriesCache:
    """The series used last; only what is committed may be put in."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[tuple[str, str], _SeriesEntry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str]) -> _SeriesEntry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: tuple[str, str], entry: _SeriesEntry) -> None:
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def forget(self, key: tuple[str, str]) -> bool:
        with self._lock:
            return self._entries.pop(key, None) is not None
