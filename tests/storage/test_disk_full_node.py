"""A running node on file systems that are really full: spool, catalog, blobs, and inodes.

The file systems are small ones in memory.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.nodes import Node
from tests.privileges import needs_mounting
from tests.scp.instances import encoded, image
from tests.scp.receivers import get, image_level
from tests.scp.wire import EXPLICIT, MR, Wire, echo, found, wait_for

pytestmark = pytest.mark.privileged

OUT_OF_RESOURCES = 0xA700
PAGE = 4096


@contextmanager
def small(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small file system."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def leave(folder: Path, free: int) -> Path:
    """Fill a file system up to so many free bytes; return the file to remove again."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    stat = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - free))
    return ballast


def make_files(folder: Path, n: int) -> None:
    """Make empty files, each of which takes an inode."""
    for number in range(n):
        (folder / str(number)).touch()


def store(node: Node, number: int, size: int) -> tuple[int, str, bytes]:
    """Send an image; return (status, UID, data set)."""
    uid, data_set = image(number, size)
    data = encoded(data_set)
    with Wire(node.port) as wire:
        wire.associate([(MR, [EXPLICIT])])
        status = wire.store(1, MR, uid, data)
        wire.release()
    return status, uid, data


def test_the_disk_of_spool_and_catalog_is_full(tmp_path: Path) -> None:
    """With every number of free pages from none to enough, and with no inode left."""
    needs_mounting(tmp_path)
    kept: dict[str, bytes] = {}
    with ExitStack() as stack:
        root = stack.enter_context(small(tmp_path / "small", "size=24m,nr_inodes=500"))
        node = Node(
            tmp_path / "node", storage={"root": str(root / "data")}, pipeline={"settle_seconds": 3600}
        )
        stack.enter_context(node)
        statuses = []
        for number, free in enumerate(range(0, 80 * PAGE, 5 * PAGE)):
            ballast = leave(root, free)
            status, uid, data = store(node, number, 300)  # 180 KB
            statuses.append(status)
            if status == 0:
                kept[uid] = data
            assert echo(node.port) == 0
            ballast.unlink()
        assert set(statuses) == {0, OUT_OF_RESOURCES}
        assert statuses[0] == OUT_OF_RESOURCES
        assert not [path for path in (root / "data" / "spool").glob("*.part") if path.stat().st_size]

        hogs = root / "hogs"
        hogs.mkdir()
        with pytest.raises(OSError, match="No space"):
            make_files(hogs, 1000)
        statuses = []
        for number in range(100, 170):  # some files are prepared already
            status, uid, data = store(node, number, 8)
            statuses.append(status)
            if status == 0:
                kept[uid] = data
        assert statuses[-1] == OUT_OF_RESOURCES
        for path in hogs.iterdir():
            path.unlink()
        status, uid, data = store(node, 200, 300)
        assert status == 0
        kept[uid] = data

        assert found(node.port) == sorted(kept)
        assert get(node.port, [(MR, EXPLICIT)], image_level(list(kept))).data_sets == kept
        node.stop()


def test_a_start_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with small(tmp_path / "small", "size=16m") as folder:
        node = Node(folder / "node")
        with node:
            pass
        leave(folder, 0)
        done = node.command("serve", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"dcmpress: cannot use {node.data}: ")
    assert done.stderr.endswith("; the disk is full\n")
    assert len(done.stderr.splitlines()) == 1


def test_the_disk_of_the_blobs_is_full(tmp_path: Path) -> None:
    """What was received stays in the spool and is served; when space returns it is compressed as configured."""
    needs_mounting(tmp_path)
    with ExitStack() as stack:
        blobs = stack.enter_context(small(tmp_path / "small", "size=8m"))
        node = stack.enter_context(Node(tmp_path / "node", storage={"blob_url": str(blobs / "blobs")}))
        ballast = leave(blobs, 2 * PAGE)
        kept: dict[str, bytes] = {}
        for number in range(4):
            status, uid, data = store(node, number, 64)
            assert status == 0
            kept[uid] = data
        # After two failures for another reason the images would be taken one by one, by Zstandard.
        assert wait_for(lambda: len(node.events("group not compressed")) >= 2, 120)
        assert get(node.port, [(MR, EXPLICIT)], image_level(list(kept))).data_sets == kept
        ballast.unlink()
        node.drained()
        assert get(node.port, [(MR, EXPLICIT)], image_level(list(kept))).data_sets == kept
        assert all(event["codec"] == "interframe" for event in node.events("compressed"))
        assert not list((blobs / "blobs" / "staging").iterdir())
        assert node.command("verify", check=False).returncode == 0
        node.stop()
