"""Files prepared ahead of need: enough of them, in order, none left behind, and a full disk is reported."""

import errno
import os
import threading
from pathlib import Path

import pytest

from dcmpress.storage import prepared
from dcmpress.storage.prepared import MOST, PreparedFiles


def taken(files: PreparedFiles, count: int) -> list[str]:
    names = []
    for _ in range(count):
        name, fd = files.take()
        names.append(name)
        os.close(fd)
    return names


def test_names_ascend_while_a_thread_prepares_the_next(tmp_path: Path) -> None:
    files = PreparedFiles(tmp_path)
    names = taken(files, 6 * MOST)
    files.close()
    assert names == sorted(set(names))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.part" for name in names]


def test_threads_that_take_at_once_share_no_file(tmp_path: Path) -> None:
    files = PreparedFiles(tmp_path)
    lists: list[list[str]] = []
    threads = [threading.Thread(target=lambda: lists.append(taken(files, 2 * MOST))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files.close()
    assert len({name for names in lists for name in names}) == 8 * MOST
    assert all(names == sorted(names) for names in lists)


def test_what_a_thread_cannot_prepare_is_reported_to_who_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = PreparedFiles(tmp_path)
    taken(files, 2 * MOST - 1)  # from here on a thread prepares them

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(prepared, "flush_folder", full)
        with pytest.raises(OSError, match="no space"):
            taken(files, 2 * MOST)
    names = taken(files, MOST)
    files.close()
    left = sorted(path.stem for path in tmp_path.iterdir())
    assert left[-MOST:] == names
    assert len(left) < 5 * MOST
