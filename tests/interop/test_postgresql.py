"""A node whose catalog is a PostgreSQL database: what it promises does not depend on the catalog."""

from pathlib import Path
from signal import SIGKILL

import pytest

from tests.corpus_files import data_set, series_files
from tests.nodes import Node, dcmtk, send_unchanged
from tests.postgresql import PostgresqlServer


@pytest.fixture
def node(tmp_path: Path, postgresql: PostgresqlServer) -> Node:
    """A node, not yet started."""
    return Node(tmp_path / "node", storage={"catalog_url": postgresql.new_database()})


def test_what_is_received_is_found_and_given_back(node: Node) -> None:
    paths = series_files("CT-LIDC0314-thin")[:12]
    meta, _ = data_set(paths[0])
    with node:
        assert set(send_unchanged(node.port, paths).values()) == {0}
        found = dcmtk(
            "findscu", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID",
            "-k", "NumberOfStudyRelatedInstances", "127.0.0.1", str(node.port),
        )  # fmt: skip
        assert f"[{len(paths)}" in found.stdout + found.stderr
        node.stop(SIGKILL)
        node.start()
        node.drained()
        for path in paths:
            meta, _ = data_set(path)
            node.command("export", meta.sop_instance_uid, node.folder / "out")
        kept = {data_set(path)[1] for path in (node.folder / "out").rglob("*.dcm")}
        assert kept == {data_set(path)[1] for path in paths}
        assert node.stats()["spool"]["instances"] == 0
        assert "OK" in node.command("config", "check").stdout.upper()
