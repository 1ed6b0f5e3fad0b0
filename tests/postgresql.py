"""A PostgreSQL server of the tests' own, thrown away with the folder it lives in."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.nodes import free_port

NewCatalogUrl = Callable[[Path], str]


class PostgresqlServer:
    """A cluster below `folder`, listening on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": folder}

    def start(self) -> None:
        """Make the cluster and start it; return once it answers."""
        # As a crash of this machine is no matter here, flushing would only take time.
        self._run("initdb", "-D", self.folder / "data", "-U", "dcmpress", "-A", "trust", "-E", "UTF8", "-N")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -F -c max_connections=200"
        self._run(
            "pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-o", options, "start"
        )

    def stop(self) -> None:
        """Stop it at once."""
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"catalog_{uuid.uuid4().hex}"
        engine = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://dcmpress@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [_program(program), *map(str, arguments)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
            **self._as,
        )


def _program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; Debian keeps them out of PATH."""
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default="")
    assert found, f"{name} is missing: apt install postgresql"
    return found


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A running server."""
    with tempfile.TemporaryDirectory(prefix="dcmpress-") as folder:  # pytest's folders are closed to others
        server = PostgresqlServer(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def new_catalog_url(request: pytest.FixtureRequest) -> NewCatalogUrl:
    """Return what gives the URL of a new catalog, of SQLite a file in the folder that it is given."""
    if request.param == "sqlite":
        return lambda folder: f"sqlite:///{folder / 'catalog.db'}"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return lambda folder: server.new_database()
