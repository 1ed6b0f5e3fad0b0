"""The face of the catalog."""

from collections.abc import Mapping
from typing import Self

from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.recording import OnConflict, Recorded, Recorder
from dcmpress.storage.catalog.settling import Settling
from dcmpress.storage.catalog.statistics import Statistics, gather
from dcmpress.storage.received import Received


class Catalog:
    """The index of everything that a node holds. Threads may share one; a forked process opens its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recorder = Recorder(database)
        self._settling = Settling(database, self._recorder)

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

    @property
    def settling(self) -> Settling:
        """The pipeline's side: worklist, blobs, damage."""
        return self._settling

    def statistics(self) -> Statistics:
        """Count what the node holds."""
        return gather(self._database)
