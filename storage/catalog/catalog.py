"""The face of the catalog."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from dcmpress.storage.catalog import search
from dcmpress.storage.catalog.commitments import Commitments
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.catalog.recording import OnConflict, Recorded, Recorder
from dcmpress.storage.catalog.search import Located, Match
from dcmpress.storage.catalog.settling import Settling
from dcmpress.storage.catalog.statistics import Attention, Statistics, attention, gather
from dcmpress.storage.catalog.tries import Tries
from dcmpress.storage.received import Received


class Catalog:
    """The index of everything that a node holds. Threads may share one; a forked process opens its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recorder = Recorder(database)
        self._settling = Settling(database, self._recorder)
        self.commitments = Commitments(database)
        """Requests for storage commitment."""
        self.tries = Tries(database)
        """Re-compressions that were in vain."""

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the catalog at an SQLAlchemy `url`; create it or bring its schema up to date if need be.

        Raises
        ------
        CatalogVersionError
            If a newer version of this program wrote it.
        """
        database = Database(url)
        try:
            database.upgrade()
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def record(
        self,
        received: Received,
        attributes: Mapping[str, str],
        on_conflict: OnConflict = "keep-both",
        needs_attention: str | None = None,
    ) -> Recorded:
        """Record a data set that is safe in the spool; see `recording.Recorder.record`."""
        return self._recorder.record(received, attributes, on_conflict, needs_attention)

    def record_all(
        self,
        items: Sequence[tuple[Received, Mapping[str, str], str | None]],
        on_conflict: OnConflict = "keep-both",
    ) -> list[Recorded]:
        """Record many data sets in one transaction; see `recording.Recorder.record_all`."""
        return self._recorder.record_all(items, on_conflict)

    def find(self, query: Query) -> Iterator[Match]:
        """Yield the matches of `query`, the newest patients and studies first; see `search.find`."""
        return search.find(self._database, query)

    def count(self, query: Query) -> int:
        """Return how many matches `query` has, its page aside."""
        return search.count(self._database, query)

    def locate(self, query: Query) -> list[Located]:
        """Return the instances that the keys of `query` describe, ordered for reading."""
        return search.locate(self._database, query)

    def current_version(self, sop_instance_uid: str) -> Located | None:
        """Return the version of an instance that is served, or None if there is no such instance."""
        return search.current_version(self._database, sop_instance_uid)

    def versions(self, sop_instance_uid: str) -> list[Located]:
        """Return every version of an instance, the one that is served first, then the newest first."""
        return search.versions(self._database, sop_instance_uid)

    def known(self, sop_instance_uids: Sequence[str]) -> set[str]:
        """Return those of a few hundred UIDs of which there is a version that is served."""
        return search.known(self._database, sop_instance_uids)

    def in_blob(self, blob_name: str) -> list[Located]:
        """Return everything that lies in a blob, in its order there."""
        return search.in_blob(self._database, blob_name)

    def in_spool(self, spool_name: str) -> list[Located]:
        """Return the instance that lies in a spool file, if there is one."""
        return search.in_spool(self._database, spool_name)

    def stored_blob_names(self) -> list[str]:
        """Return the names of all blobs that the catalog relies on."""
        return self._settling.stored_blob_names()

    @property
    def settling(self) -> Settling:
        """The pipeline's side: worklist, blobs, damage."""
        return self._settling

    def attention(self) -> list[Attention]:
        """Return the instances that somebody should look at, and why."""
        return attention(self._database)

    def statistics(self) -> Statistics:
        """Count what the node holds."""
        return gather(self._database)
