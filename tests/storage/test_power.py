"""The power fails after every system call; what was acknowledged by then is there after the restart.

The life of an archive (`test_crash.live`: receive, compress, receive the same and other bytes, compress again)
is recorded by strace, down to SQLite's writes, and played on a disk that keeps no more than was flushed
(`power.py`). Whatever may lie there is recovered by `Archive.recover`, served, compressed and verified; and
some of it by `rebuild`, from the files without the catalog.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcmpress.storage.rebuild import rebuild_blobs
from tests.privileges import needs_tracing
from tests.storage.objects import opened, served
from tests.storage.power import Call, Disk, fingerprint, journal, read_in, write_out
from tests.storage.test_crash import check

ROOT = Path(__file__).resolve().parents[2]
LIFE = """
import os, sys
from pathlib import Path
from tests.storage.test_crash import live
folder, policy = Path(sys.argv[1]), sys.argv[2]
live(folder / "archive", os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND), policy)
"""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: power cuts are played here, not suffered."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def recorded(folder: Path, policy: str) -> list[Call]:
    """Let an archive live in `folder`; return its system calls."""
    folder.mkdir()
    (folder / "archive").mkdir()
    os.chdir(ROOT)
    return journal([sys.executable, "-B", "-c", LIFE, str(folder), policy], folder / "trace")


def cut_everywhere(memory: Path, policy: str, seed: int, randomly: int, share: float) -> tuple[int, int]:
    """Cut the power after each call and check a share of what may be left; return (calls, states checked)."""
    calls = recorded(memory / policy, policy)
    life = memory / policy
    disk = Disk(life / "archive")
    chance = random.Random(seed)
    acknowledged: list[bytes] = []
    seen: set[bytes] = set()
    played = checked = 0
    for call in calls:
        outside = disk.play(call)
        if outside is not None and outside.endswith("/acknowledged"):
            acknowledged.append(bytes.fromhex(call.arguments[1].strip('"').replace("\\x", "")))
        elif call.name in ("close", "openat", "lseek", "fcntl") and "O_CREAT" not in str(call.arguments):
            continue  # changes nothing on the disk
        played += 1
        for tree in disk.trees(chance, randomly):
            mark = fingerprint(tree) + bytes([len(acknowledged)])
            if mark in seen or chance.random() > share:
                continue
            seen.add(mark)
            checked += 1
            with tempfile.TemporaryDirectory(dir=memory) as name:
                folder = Path(name)
                (folder / "archive").mkdir()
                (folder / "acknowledged").write_bytes(b"".join(acknowledged))
                write_out(tree, folder / "archive")
                if checked % 4 == 0:
                    check_rebuilt(folder, policy)
                check(folder, policy)
    assert len(acknowledged) == 5
    assert disk.tree(lambda file: file.changes, lambda _: True) == read_in(life / "archive")
    return played, checked


def check_rebuilt(folder: Path, policy: str) -> None:
    """Throw the catalog away and make it anew: what was acknowledged is there."""
    for file in (folder / "archive").glob("catalog.sqlite*"):
        file.unlink()
    with opened(folder / "archive", on_conflict=policy) as archive:
        for rebuilt in rebuild_blobs(archive):
            assert rebuilt.problem == "", rebuilt
        assert archive.recover().problems == {}
        for line in (folder / "acknowledged").read_text().splitlines():
            uid, digest = json.loads(line)
            kept = {version.sha256.hex() for version in archive.catalog.versions(uid)}
            assert digest in kept or policy == "replace"
            assert hashlib.sha256(served(archive, uid)).hexdigest() in kept


@pytest.mark.privileged
@pytest.mark.parametrize(
    ("policy", "share"),
    [
        ("keep-both", 0.02),
        pytest.param("keep-both", 1.0, marks=pytest.mark.long),
        pytest.param("replace", 1.0, marks=pytest.mark.long),
    ],
)
def test_a_power_cut_takes_nothing_acknowledged(memory: Path, policy: str, share: float) -> None:
    needs_tracing()
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        played, checked = cut_everywhere(Path(folder), policy, 1, 4, share)
    print(f"power cut after each of {played} calls: {checked} states of the disk recovered")
    assert played > 200
    assert checked > 20
