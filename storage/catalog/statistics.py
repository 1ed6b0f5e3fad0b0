"""What the node holds, counted for `dcmpress stats`."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Double, case, cast, func, select

from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.models import Blob, Instance, Series


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the archive that has one modality, or one codec."""

    instances: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over every version that is kept; sizes in bytes. Raw bytes are those that were received.

    `stored_bytes` is what blobs and spool take on the disk. A blob that holds several modalities is
    divided among them by the size of their data sets, so that shares may miss the total by a few bytes.
    """

    instances: int
    raw_bytes: int
    stored_bytes: int
    spool_instances: int
    spool_bytes: int
    needs_attention: int
    damaged: int
    fallbacks: int
    """Blobs of which some frames were not kept as the requested codec made them."""
    pixel_exact: int
    """Instances of which the samples are kept, but not the bytes that were received."""
    by_modality: dict[str, Share]
    """"" stands for instances without a modality."""
    by_codec: dict[str, Share]
    """"spool" stands for what is not compressed yet."""


_STORED = case(
    (Instance.spool_name.is_not(None), cast(Instance.size, Double)),
    (Blob.raw_size > 0, cast(Instance.size, Double) * Blob.size / Blob.raw_size),
    else_=0.0,
)
_RAW = func.sum(func.coalesce(Instance.received_size, Instance.size))
_BY_MODALITY = (
    select(Series.modality, func.count(), _RAW, func.sum(_STORED))
    .select_from(Instance)
    .join(Series, Series.pk == Instance.series_pk)
    .outerjoin(Blob, Blob.pk == Instance.blob_pk)
    .where(~Instance.replaced)
    .group_by(Series.modality)
)
_BY_CODEC = (
    select(Blob.codec, func.count(), _RAW, func.sum(_STORED))
    .select_from(Instance)
    .outerjoin(Blob, Blob.pk == Instance.blob_pk)
    .where(~Instance.replaced)
    .group_by(Blob.codec)
)
_BLOB_BYTES = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.state == "stored")
_SPOOL = select(func.count(), func.coalesce(func.sum(Instance.size), 0)).where(
    Instance.spool_name.is_not(None)
)
_ATTENTION = select(func.count()).where(Instance.needs_attention.is_not(None))
_FALLBACKS = select(func.count()).where(Blob.state == "stored", Blob.fallback.is_not(None))
_PIXEL_EXACT = select(func.count()).where(Instance.received_sha256.is_not(None))
_DAMAGED = select(func.count()).where(Instance.damaged)


@dataclass(frozen=True, slots=True)
class Attention:
    """An instance that somebody should look at."""

    sop_instance_uid: str
    reason: str
    damaged: bool


_WHAT_NEEDS_ATTENTION = (
    select(Instance.sop_instance_uid, Instance.needs_attention, Instance.damaged)
    .where(Instance.needs_attention.is_not(None))
    .order_by(Instance.pk)
)


def attention(database: Database) -> list[Attention]:
    """Return the instances that need attention, and why."""
    with database.reading() as connection:
        rows = connection.execute(_WHAT_NEEDS_ATTENTION)
        return [Attention(uid, why or "", damaged) for uid, why, damaged in rows]


def gather(database: Database) -> Statistics:
    """Count what the catalog in `database` lists; reads every instance row once or twice."""
    with database.reading() as connection:
        by_modality = _shares(connection.execute(_BY_MODALITY), without="")
        by_codec = _shares(connection.execute(_BY_CODEC), without="spool")
        spool_instances, spool_bytes = connection.execute(_SPOOL).one()
        blob_bytes = connection.execute(_BLOB_BYTES).scalar_one()
        needs_attention = connection.execute(_ATTENTION).scalar_one()
        damaged = connection.execute(_DAMAGED).scalar_one()
        fallbacks = connection.execute(_FALLBACKS).scalar_one()
        pixel_exact = connection.execute(_PIXEL_EXACT).scalar_one()
    return Statistics(
        instances=sum(share.instances for share in by_modality.values()),
        raw_bytes=sum(share.raw_bytes for share in by_modality.values()),
        stored_bytes=int(blob_bytes) + int(spool_bytes),
        spool_instances=spool_instances,
        spool_bytes=int(spool_bytes),
        needs_attention=needs_attention,
        damaged=damaged,
        fallbacks=fallbacks,
        pixel_exact=pixel_exact,
        by_modality=by_modality,
        by_codec=by_codec,
    )


def _shares(rows: Any, without: str) -> dict[str, Share]:
    return {name or without: Share(n, int(raw), round(stored)) for name, n, raw, stored in rows}
