"""Opening the catalog's database: connections, transactions and the schema's version."""

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dcmpress.storage.catalog.errors import CatalogError, CatalogVersionError
from dcmpress.storage.catalog.migrations import HEAD
from dcmpress.storage.catalog.prepared import Prepared
from dcmpress.storage.errors import NoSpaceError

BUSY_SECONDS = 60
"""How long a SQLite writer waits for another process's transaction."""

CONNECTIONS = 12
"""Kept open; as many again for a rush. A statement takes about a millisecond, so more would only wait."""
READERS = 4
"""SQLite connections that are kept at hand for prepared statements."""
CACHE_KIB = 4096
"""Page cache of each SQLite connection; the operating system caches the file itself."""

_UPGRADE_LOCK = 0x64636D70
"""Key of the PostgreSQL advisory lock that lets one process at a time change the schema ("dcmp")."""


class Database:
    """The engines of one catalog.

    SQLite has one writer at a time: threads queue on a lock here, processes on the file. Receipt commits
    with synchronous=NORMAL, because the spool file is the proof of what was acknowledged; a transaction
    asked to be `durable` is on the disk when it returns. Its planner is never told how values are
    distributed (ANALYZE): what it learns of a small catalog makes it scan the tables when they have grown.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
            self.url.get_dialect()
        except (ArgumentError, ImportError) as error:  # the URL itself may hold a password
            raise CatalogError(f"the catalog's URL names no database that can be used: {error}") from None
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._write_lock = threading.Lock()
        self._writers: dict[bool, Connection] = {}
        if self.is_sqlite:
            self._make_file()
            self.engine = _sqlite_engine(url, "NORMAL")
            self._durable_engine = _sqlite_engine(url, "FULL")
        else:
            self.engine = create_engine(
                url,
                pool_pre_ping=True,
                pool_size=CONNECTIONS,
                max_overflow=CONNECTIONS,
                hide_parameters=True,  # a log shows errors, and what was bound are patients
            )
            self._durable_engine = self.engine
        self.dialect: Dialect = self.engine.dialect
        self._readers: deque[Any] = deque()
        self._reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    def _make_file(self) -> None:
        """Make what SQLite would make, but not readable by everybody: it holds patients' names."""
        if self.url.database and self.url.database != ":memory:":
            Path(self.url.database).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            os.close(os.open(self.url.database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection for reading; each statement sees the newest committed state."""
        with _translated(), self._reading.connect() as connection:
            yield connection

    def rows(self, statement: Prepared, values: Sequence[Any]) -> list[Any]:
        """Run a prepared statement; return its rows, tuples as the driver makes them.

        SQLite's connections for it stay open and bypass SQLAlchemy's pool, which costs more than the statement.
        """
        if not self.is_sqlite:
            with self.reading() as lent:
                return list(lent.exec_driver_sql(statement.sql, statement.bound(values)))
        with _translated():
            try:
                connection: Any = self._readers.pop()
            except IndexError:
                connection = self.engine.raw_connection()
            try:
                rows = connection.driver_connection.execute(statement.sql, statement.bound(values)).fetchall()
            except BaseException:
                connection.close()
                raise
            if len(self._readers) < READERS:
                self._readers.append(connection)
            else:
                connection.close()
            return rows

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[Connection]:
        """Lend a connection inside a transaction, committed at the end unless an exception leaves."""
        if not self.is_sqlite:
            with _translated(), self.engine.begin() as connection:
                yield connection
            return
        with _translated(), self._write_lock:
            connection = self._writer(durable=durable)
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # to wait here, not at the first change
                yield connection
                connection.commit()
            except BaseException:
                self._writers.pop(durable).close()  # rolls back
                raise

    def insert_row(self, sql: str, values: Sequence[Any]) -> int | None:
        """Run one INSERT of SQLite's as a transaction of its own; return the row's key, None if it made none.

        It waits for another writer as BEGIN IMMEDIATE does, and SQLAlchemy would take as long as SQLite.
        """
        with _translated(), self._write_lock:
            writer = self._writer(durable=False)
            try:
                return inserted(writer, sql, values)
            except BaseException:
                self._writers.pop(False).close()
                raise

    def _writer(self, *, durable: bool) -> Connection:
        """Return SQLite's connection for writing; the caller holds the lock."""
        # One writer at a time: it keeps its connection, as getting one costs a fifth of recording.
        if durable not in self._writers:
            self._writers[durable] = (self._durable_engine if durable else self.engine).connect()
        return self._writers[durable]

    def close(self) -> None:
        """Close all connections."""
        while self._readers:
            self._readers.pop().close()
        with self._write_lock:
            for connection in self._writers.values():
                connection.close()
            self._writers.clear()
        self.engine.dispose()
        self._durable_engine.dispose()

    def version(self) -> str | None:
        """Return the revision of the schema, or None if the database is empty."""
        try:
            with self._reading.connect() as connection:
                version: str | None = connection.execute(
                    text("SELECT version_num FROM alembic_version")
                ).scalar()
                return version
        except DatabaseError as error:
            if self._is_missing_table(error):
                return None
            with _translated():
                raise

    def _is_missing_table(self, error: DatabaseError) -> bool:
        if self.is_sqlite:
            return "no such table" in str(error.orig)
        return getattr(error.orig, "sqlstate", "") == "42P01"  # undefined_table

    def upgrade(self) -> None:
        """Bring the schema to the revision of this program; one SELECT when it is there already."""
        if self.version() == HEAD:
            return
        with self.writing(durable=True) as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
            self._run_migrations(connection)

    @staticmethod
    def _run_migrations(connection: Connection) -> None:
        from alembic import command  # slow to import, and needed once in the life of a catalog
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, HEAD)
        except CommandError as error:
            raise CatalogVersionError(f"the catalog is of a newer version of dcmpress: {error}") from error


def inserted(connection: Connection, sql: str, values: Sequence[Any]) -> int | None:
    """Hand an INSERT to SQLite's driver; return the key of the row, or None if it made none.

    Raises
    ------
    DBAPIError
        As SQLAlchemy would; an IntegrityError if a constraint is violated.
    """
    driver: Any = connection.connection.dbapi_connection
    try:
        cursor = driver.execute(sql, values)
    except sqlite3.Error as error:
        raise DBAPIError.instance(sql, None, error, sqlite3.Error) from error
    return int(cursor.lastrowid) if cursor.rowcount else None


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the database's own errors as ours; a violated constraint is for the caller to judge."""
    try:
        yield
    except IntegrityError:
        raise
    except PoolTimeoutError as error:
        raise CatalogError(f"the catalog has no connection to spare: {error}") from error
    except (DBAPIError, sqlite3.Error) as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        problem = " ".join(str(original).split())
        if "disk is full" in problem or getattr(original, "sqlstate", "") == "53100":  # disk_full
            raise NoSpaceError(f"no room for the catalog: {problem}") from error
        raise CatalogError(f"the catalog's database fails: {problem}") from error


def _sqlite_engine(url: str, synchronous: str) -> Engine:
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=CONNECTIONS,
        max_overflow=CONNECTIONS,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: Any) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA case_sensitive_like = ON")  # as PostgreSQL has it
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")

    return engine
