"""The one statement that every receipt runs: entering an instance as the current version of its UID.

SQLAlchemy takes twice as long to run an INSERT of fifty columns as SQLite does. On SQLite the statement is
compiled once and handed to the driver; elsewhere SQLAlchemy runs it: the network costs more than that.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from dcmpress.storage.catalog.database import Database, inserted
from dcmpress.storage.catalog.models import CURRENT, Instance


class CurrentInsertion:
    """Enters an instance unless a current version with its SOP Instance UID is there."""

    def __init__(self, database: Database) -> None:
        self._database = database
        insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert
        where = CURRENT["sqlite_where" if database.is_sqlite else "postgresql_where"]
        statement = insert(Instance).on_conflict_do_nothing(
            index_elements=["sop_instance_uid"], index_where=where
        )
        self._statement = statement.returning(Instance.pk)
        if database.is_sqlite:
            dialect = database.engine.dialect
            columns = [column for column in Instance.__table__.c if not column.primary_key]
            compiled: Any = statement.compile(dialect=dialect, column_keys=[c.name for c in columns])
            self._text = str(compiled)
            self._order: list[str] = compiled.positiontup
            self._conversions: list[tuple[int, Callable[[Any], Any]]] = []
            for column in columns:
                convert = column.type.dialect_impl(dialect).bind_processor(dialect)
                if convert is not None:
                    self._conversions.append((self._order.index(column.name), convert))

    def run(self, connection: Connection, row: Mapping[str, Any]) -> int | None:
        """Return the key of the new row; None if there is a current version already.

        Raises
        ------
        DBAPIError
            As SQLAlchemy would; an IntegrityError if the row's series is not there any more.
        """
        if self._database.is_sqlite:
            return inserted(connection, self._text, self._values(row))
        entered: int | None = connection.execute(self._statement, row).scalar()
        return entered

    def run_alone(self, row: Mapping[str, Any]) -> int | None:
        """Do the same in a transaction of its own. On SQLite only: elsewhere always None."""
        if self._database.is_sqlite:
            return self._database.insert_row(self._text, self._values(row))
        return None

    def _values(self, row: Mapping[str, Any]) -> list[Any]:
        values = [row[name] for name in self._order]
        for at, convert in self._conversions:
            values[at] = convert(values[at])
        return values
