"""Tries to re-compress blobs, counted where they survive whatever they do to the process or the machine."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.models import Blob


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A blob that is not re-compressed any more."""

    blob_name: str
    reason: str


class Tries:
    """How often a re-compression was begun and has not come to an end, by the names of the old blobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, blob_names: Collection[str]) -> None:
        """Count a try, before it is made: it may take this process along."""
        self._change(blob_names, recompression_tries=Blob.recompression_tries + 1)

    def take_back(self, blob_names: Collection[str]) -> None:
        """Uncount the last try: what ended it had nothing to do with these blobs."""
        self._change(blob_names, recompression_tries=Blob.recompression_tries - 1)

    def forget(self, blob_names: Collection[str]) -> None:
        """Forget all tries: one has come to its end."""
        self._change(blob_names, recompression_tries=0, left_alone=None)

    def give_up(self, blob_names: Collection[str], requested: str, reason: str) -> None:
        """Leave blobs alone until another codec than `requested` is asked for, or `try_again`."""
        self._change(blob_names, recompression_tries=0, requested=requested, left_alone=reason)

    def try_again(self, requested: str) -> None:
        """Let blobs that are left alone be tried again by the codec that was in vain."""
        with self._database.writing(durable=True) as connection:
            connection.execute(
                update(Blob)
                .where(Blob.requested == requested, Blob.left_alone.is_not(None))
                .values(requested="", left_alone=None)
            )

    def of(self, blob_names: Collection[str]) -> dict[str, int]:
        """Return how often each blob was tried in vain."""
        if not blob_names:
            return {}
        with self._database.reading() as connection:
            tried = select(Blob.name, Blob.recompression_tries).where(Blob.recompression_tries > 0)
            counts: dict[str, int] = {row.name: row.recompression_tries for row in connection.execute(tried)}
        return {name: counts.get(name, 0) for name in blob_names}

    def left_alone(self) -> list[LeftAlone]:
        """Return the blobs that are left alone, and why."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(Blob.name, Blob.left_alone).where(Blob.left_alone.is_not(None)).order_by(Blob.pk)
            )
            return [LeftAlone(name, why or "") for name, why in rows]

    def _change(self, blob_names: Collection[str], **values: Any) -> None:
        with self._database.writing(durable=True) as connection:
            names = sorted(blob_names)
            for start in range(0, len(names), 500):
                connection.execute(
                    update(Blob).where(Blob.name.in_(names[start : start + 500])).values(**values)
                )
