"""The way from the spool into blobs, as the catalog sees it: worklist, placement, loss and repair.

A blob is announced before its file exists ("writing") and becomes "stored" in the one durable transaction
that also moves its instances there. What a crash leaves is therefore always one of: an announced blob
whose file may exist in part (abandon it), or instances that are still in the spool (compress them again).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, update

from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.errors import UnknownBlobError
from dcmpress.storage.catalog.models import Blob, Instance, Series, Study
from dcmpress.storage.catalog.recording import Recorded, Recorder
from dcmpress.storage.received import Form, Received

_CHUNK = 500
"""Keys in one IN list."""


@dataclass(frozen=True, slots=True)
class SpooledSeries:
    """A series of which some instances still lie in the spool."""

    series_pk: int
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    manufacturer: str
    n_instances: int
    size: int
    """Bytes of the data sets in the spool."""
    newest: datetime
    """When the last of them was received."""


@dataclass(frozen=True, slots=True)
class StoredSeries:
    """A series of which instances lie in blobs that another codec was asked for."""

    series_pk: int
    modality: str
    manufacturer: str
    n_instances: int
    size: int
    """Bytes of the data sets in those blobs."""


@dataclass(frozen=True, slots=True)
class SpooledInstance:
    """An instance in the spool."""

    instance_pk: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    sha256: bytes
    spool_name: str
    received_at: datetime
    calling_ae: str
    called_ae: str
    remote_host: str
    instance_number: int | None


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """What the catalog keeps of a finished blob file."""

    size: int
    raw_size: int
    """Bytes of the data sets in it."""
    n_instances: int
    codec: str
    format_version: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Effort and whatever else the codec was given; JSON."""
    requested: str = ""
    """What the rule wanted, see `requested_codec`."""
    fallback: str | None = None
    """Why some of the frames were not kept as that codec made them."""

    def columns(self) -> dict[str, Any]:
        """Return them as columns of the blob's row."""
        return {
            "size": self.size,
            "raw_size": self.raw_size,
            "n_instances": self.n_instances,
            "codec": self.codec,
            "format_version": self.format_version,
            "parameters": json.dumps(dict(self.parameters), sort_keys=True),
            "requested": self.requested,
            "fallback": self.fallback,
        }


def requested_codec(codec: str, parameters: Mapping[str, Any], *, pixel_exact: bool = False) -> str:
    """Return what a rule asks for as the catalog keeps and compares it: JSON, keys sorted."""
    asked: dict[str, Any] = {"codec": codec, "parameters": dict(parameters)}
    if pixel_exact:
        asked["pixel_exact"] = True
    return json.dumps(asked, sort_keys=True)


_NOT_YET = BlobFacts(0, 0, 0, "", 0)

_WORKLIST = (
    select(
        Instance.series_pk,
        func.count().label("n_instances"),
        func.sum(Instance.size).label("size"),
        func.max(Instance.received_at, type_=Instance.received_at.type).label("newest"),
    )
    .where(Instance.spool_name.is_not(None), ~Instance.damaged)
    .group_by(Instance.series_pk)
    .subquery()
)
_SPOOLED_SERIES = (
    select(
        _WORKLIST.c.series_pk,
        Study.study_instance_uid,
        Series.series_instance_uid,
        func.coalesce(Series.modality, ""),
        func.coalesce(Series.manufacturer, ""),
        _WORKLIST.c.n_instances,
        _WORKLIST.c.size,
        _WORKLIST.c.newest,
    )
    .join(Series, Series.pk == _WORKLIST.c.series_pk)
    .join(Study, Study.pk == Series.study_pk)
    .order_by(_WORKLIST.c.newest)
)
_SPOOLED_IN = (
    select(
        Instance.pk,
        Instance.sop_class_uid,
        Instance.sop_instance_uid,
        Instance.available_transfer_syntax_uid,
        Instance.size,
        Instance.sha256,
        Instance.spool_name,
        Instance.received_at,
        Instance.calling_ae,
        Instance.called_ae,
        Instance.remote_host,
        Instance.instance_number,
    )
    .where(Instance.series_pk == bindparam("series_pk"), Instance.spool_name.is_not(None), ~Instance.damaged)
    .order_by(Instance.instance_number, Instance.pk)
)
_OTHERWISE = (
    Blob.state == "stored",
    Blob.requested != bindparam("requested"),
    Blob.created_at < bindparam("before"),
)
_STORED_OTHERWISE = (
    select(
        Series.pk,
        func.coalesce(Series.modality, ""),
        func.coalesce(Series.manufacturer, ""),
        func.count(),
        func.sum(Instance.size),
    )
    .join(Instance, Instance.series_pk == Series.pk)
    .join(Blob, Blob.pk == Instance.blob_pk)
    .where(*_OTHERWISE, ~Instance.damaged)
    .group_by(Series.pk, Series.modality, Series.manufacturer)
    .order_by(func.min(Blob.created_at), Series.pk)
)
_BLOBS_OF = (
    select(Blob.name)
    .join(Instance, Instance.blob_pk == Blob.pk)
    .where(Instance.series_pk == bindparam("series_pk"), *_OTHERWISE)
    .distinct()
    .order_by(Blob.name)
)
_PLACE = (
    update(Instance)
    .where(Instance.pk == bindparam("key"))
    .values(blob_pk=bindparam("blob"), blob_index=bindparam("index"), spool_name=None, damaged=False)
)
_REPLACE = (
    update(Instance)
    .where(Instance.pk == bindparam("key"))
    .values(
        received_transfer_syntax_uid=Instance.available_transfer_syntax_uid,
        received_size=Instance.size,
        received_sha256=Instance.sha256,
        available_transfer_syntax_uid=bindparam("kept_syntax"),
        size=bindparam("kept_size"),
        sha256=bindparam("kept_sha256"),
    )
)
"""The data set that is kept is another encoding of what was received."""
_IN_USE = select(Instance.pk).where(Instance.blob_pk == Blob.pk).exists()


class Settling:
    """The pipeline's side of the catalog."""

    def __init__(self, database: Database, recorder: Recorder) -> None:
        self._database = database
        self._recorder = recorder

    def spooled_series(self, quiet_since: datetime | None = None) -> list[SpooledSeries]:
        """Return the series with instances in the spool, those quiet for longest first.

        With `quiet_since`, only those of which nothing has been received after that time. Instances whose
        spool file is damaged do not count.
        """
        with self._database.reading() as connection:
            rows: Any = connection.execute(_SPOOLED_SERIES)
            series = [SpooledSeries(*row) for row in rows]
        return [s for s in series if quiet_since is None or s.newest <= quiet_since]

    def stored_otherwise(self, requested: str, before: datetime) -> list[StoredSeries]:
        """Return the series with instances in blobs made before a time for another codec than `requested`."""
        with self._database.reading() as connection:
            rows: Any = connection.execute(_STORED_OTHERWISE, {"requested": requested, "before": before})
            return [StoredSeries(*row) for row in rows]

    def blobs_of(self, series_pk: int, requested: str, before: datetime) -> list[str]:
        """Return the names of those blobs of a series."""
        with self._database.reading() as connection:
            values = {"series_pk": series_pk, "requested": requested, "before": before}
            return list(connection.execute(_BLOBS_OF, values).scalars())

    def spooled_in(self, series_pk: int) -> list[SpooledInstance]:
        """Return the instances of a series that lie in the spool, all versions, by instance number."""
        with self._database.reading() as connection:
            rows: Any = connection.execute(_SPOOLED_IN, {"series_pk": series_pk})
            return [SpooledInstance(*row) for row in rows]

    def spool_names(self) -> set[str]:
        """Return the names of all spool files that the catalog relies on."""
        with self._database.reading() as connection:
            names = connection.execute(select(Instance.spool_name).where(Instance.spool_name.is_not(None)))
            return {name for name in names.scalars() if name is not None}

    def begin_blob(self, name: str) -> int:
        """Announce the blob file `name` before anything of it exists; return its key."""
        values = {"name": name, "state": "writing", "created_at": datetime.now(UTC)} | _NOT_YET.columns()
        with self._database.writing(durable=True) as connection:
            return connection.execute(insert(Blob).returning(Blob.pk), values).scalar_one()

    def settle(
        self,
        blob_pk: int,
        facts: BlobFacts,
        placements: Iterable[tuple[int, int]],
        forms: Mapping[int, Form] | None = None,
        made_from: Mapping[int, bytes] | None = None,
    ) -> list[str]:
        """Enter a finished, verified blob and move its instances there, in one durable transaction.

        Parameters
        ----------
        placements : (instance key, position in the blob); instances from the spool or from other blobs.
            One that has been replaced meanwhile is passed over.
        forms : instance key -> the data set in the blob, where it is not the one that was received
        made_from : instance key -> SHA-256 of the data set that was compressed. An instance that is kept as
            other bytes by now (a damaged one was healed by what it had been made from) is passed over too.

        Returns
        -------
        Names of the spool files that nothing needs any more.

        Raises
        ------
        UnknownBlobError
            If the blob is not announced, or settled already.
        """
        freed: list[str] = []
        placed: set[int] = set()
        with self._database.writing(durable=True) as connection:
            stored = connection.execute(
                update(Blob)
                .where(Blob.pk == blob_pk, Blob.state == "writing")
                .values(state="stored", **facts.columns())
            )
            if stored.rowcount != 1:
                raise UnknownBlobError(f"no blob is being written with key {blob_pk}")
            for chunk in _chunks(placements):
                there = (
                    select(Instance.pk, Instance.sha256, Instance.spool_name)
                    .where(Instance.pk.in_([pk for pk, _ in chunk]))
                    .with_for_update()
                )
                kept = {
                    row.pk: row.spool_name
                    for row in connection.execute(there)
                    if (made_from or {}).get(row.pk, row.sha256) == row.sha256
                }
                freed += [name for name in kept.values() if name]
                rows = [{"key": pk, "blob": blob_pk, "index": index} for pk, index in chunk if pk in kept]
                if rows:
                    connection.execute(_PLACE, rows)
                placed |= kept.keys()
            for pk, form in (forms or {}).items():
                if pk not in placed:
                    continue
                of_form = {
                    "kept_syntax": form.transfer_syntax_uid,
                    "kept_size": form.size,
                    "kept_sha256": form.sha256,
                }
                connection.execute(_REPLACE, of_form | {"key": pk})
        return freed

    def adopt_blob(
        self,
        name: str,
        facts: BlobFacts,
        instances: Iterable[tuple[Received, Mapping[str, str], int]],
        created_at: datetime | None = None,
    ) -> list[Recorded]:
        """Enter a blob file that the catalog does not know (a rebuild), in one durable transaction.

        `instances` are (facts of receipt, attributes, position in the blob); their `spool_name` counts for
        nothing. A blob that is stored already is left as it is, and nothing is returned.
        """
        values = {"state": "stored", "created_at": created_at or datetime.now(UTC)} | facts.columns()
        with self._database.writing(durable=True) as connection:
            known = connection.execute(select(Blob.pk, Blob.state).where(Blob.name == name)).first()
            if known is not None and known.state == "stored":
                return []
            if known is None:
                new = insert(Blob).returning(Blob.pk)
                blob_pk = connection.execute(new, values | {"name": name}).scalar_one()
            else:
                blob_pk = known.pk
                connection.execute(update(Blob).where(Blob.pk == blob_pk).values(**values))
            return [
                self._recorder.record_stored(connection, received, attributes, blob_pk, index)
                for received, attributes, index in instances
            ]

    def note_requested(self, blob_names: Iterable[str], requested: str) -> None:
        """Note that another codec was asked for these blobs and is not better: it need not be tried again."""
        with self._database.writing(durable=True) as connection:
            for chunk in _chunks(blob_names):
                connection.execute(update(Blob).where(Blob.name.in_(chunk)).values(requested=requested))

    def abandon_blob(self, blob_pk: int) -> None:
        """Forget a blob that was announced and will not be settled."""
        with self._database.writing(durable=True) as connection:
            connection.execute(delete(Blob).where(Blob.pk == blob_pk, Blob.state == "writing"))

    def blobs_being_written(self) -> list[tuple[int, str]]:
        """Return (key, name) of the blobs that are announced and not settled."""
        return self._blobs(Blob.state == "writing")

    def stored_blob_names(self) -> list[str]:
        """Return the names of the blobs that are settled."""
        return [name for _, name in self._blobs(Blob.state == "stored")]

    def unreferenced_blobs(self) -> list[tuple[int, str]]:
        """Return (key, name) of the stored blobs in which no instance lies any more."""
        return self._blobs(Blob.state == "stored", ~_IN_USE)

    def _blobs(self, *conditions: Any) -> list[tuple[int, str]]:
        with self._database.reading() as connection:
            rows = connection.execute(select(Blob.pk, Blob.name).where(*conditions).order_by(Blob.pk))
            return [(row.pk, row.name) for row in rows]

    def forget_blob(self, blob_pk: int) -> None:
        """Forget a stored blob that nothing refers to; its file may be deleted after that.

        Raises
        ------
        UnknownBlobError
            If instances lie in it, or it is not there.
        """
        with self._database.writing(durable=True) as connection:
            gone = connection.execute(
                delete(Blob).where(Blob.pk == blob_pk, Blob.state == "stored", ~_IN_USE)
            )
            if gone.rowcount != 1:
                raise UnknownBlobError(f"blob {blob_pk} is not stored, or instances lie in it")

    def mark_damaged(self, instance_pks: Iterable[int], reason: str) -> None:
        """Note that the stored bytes of instances failed their checksum; an equal re-send heals them."""
        marking = (
            update(Instance)
            .where(Instance.pk == bindparam("key"))
            .values(damaged=True, needs_attention=reason)
        )
        with self._database.writing(durable=True) as connection:
            for chunk in _chunks(instance_pks):
                connection.execute(marking, [{"key": pk} for pk in chunk])

    def mark_sound(self, instance_pks: Iterable[int]) -> None:
        """Take back that instances are damaged: their stored bytes are what was received, after all."""
        marking = (
            update(Instance)
            .where(Instance.pk == bindparam("key"), Instance.damaged)
            .values(damaged=False, needs_attention=None)
        )
        pks = sorted(instance_pks)
        if not pks:
            return
        with self._database.writing(durable=True) as connection:
            for chunk in _chunks(pks):
                connection.execute(marking, [{"key": pk} for pk in chunk])

    def mark_lost(self, spool_names: Iterable[str]) -> None:
        """Note that files which the catalog relies on are gone from the spool; an equal re-send heals them."""
        marking = (
            update(Instance)
            .where(Instance.spool_name == bindparam("name"))
            .values(damaged=True, needs_attention="its file in the spool is gone")
        )
        with self._database.writing(durable=True) as connection:
            for chunk in _chunks(spool_names):
                connection.execute(marking, [{"name": name} for name in chunk])


def _chunks(items: Iterable[Any]) -> Iterable[Sequence[Any]]:
    items = list(items)
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
