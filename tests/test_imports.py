"""Who may import whom: rooms import downwards only, and codecs know arrays and bytes alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpus_files import PROJECT

ROOMS = {
    "codecs": PROJECT / "codecs",
    "storage": PROJECT / "storage",
    "scp": PROJECT / "scp",
    "cli": PROJECT / "src" / "dcmpress" / "cli",
}
MAY_IMPORT = {
    "codecs": {"dcmpress.codecs", "numpy", "numba", "llvmlite", "imagecodecs", "zstandard", "pywt"},
    "storage": {
        "dcmpress.codecs",
        "dcmpress.storage",
        "dcmpress",
        "numpy",
        "pydicom",
        "sqlalchemy",
        "alembic",
    }
    | {"zstandard", "structlog"},
    "scp": {"dcmpress.storage", "dcmpress.scp", "pydicom", "pynetdicom", "structlog"},
}
NOT_IN_CODECS = {"logging", "os.path", "sqlite3", "socket", "datetime", "time"}


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a source file imports, absolute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


def room_of(module: str) -> str:
    """Return what a rule speaks of: a room of ours, or a top-level package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "dcmpress" else parts[0]


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    import sys

    for path in ROOMS[room].rglob("*.py"):
        for module in imports(path):
            top = room_of(module)
            if top.split(".")[0] in sys.stdlib_module_names:
                assert room != "codecs" or module not in NOT_IN_CODECS, f"{path} imports {module}"
                continue
            assert top in MAY_IMPORT[room], f"{path} imports {module}"


def test_nothing_imports_the_rooms_by_their_folder_names() -> None:
    """A top-level `codecs` would be Python's own."""
    for path in PROJECT.rglob("*.py"):
        if ".venv" in path.parts or "src" in path.relative_to(PROJECT).parts[:1]:
            continue
        for module in imports(path):
            assert module.split(".")[0] not in ("scp", "storage"), f"{path} imports {module}"
            assert not module.startswith("codecs."), f"{path} imports {module}"


def test_only_the_configuration_reads_the_environment() -> None:
    # codecs/jit.py asks for the user's cache folder, as the XDG base directory specification wants.
    allowed = {PROJECT / "src/dcmpress/config.py", PROJECT / "codecs/jit.py"}
    for room in ROOMS.values():
        for path in room.rglob("*.py"):
            text = path.read_text()
            assert path in allowed or ("os.environ" not in text and "getenv" not in text), path
