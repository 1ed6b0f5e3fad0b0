"""Freed memory is kept while data sets go out, and given back when none do."""

import subprocess
import sys
import threading

import pytest

from dcmpress.storage import allocator
from dcmpress.storage.allocator import FreedMemory

IN_A_PROCESS_OF_ITS_OWN = """
import time
from pathlib import Path
import numpy as np
from dcmpress.storage.allocator import FreedMemory

SIZE = 24 << 20

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

memory = FreedMemory(0.2)
with memory.kept():
    before = resident()
    for _ in range(3):
        np.ones(SIZE, np.uint8)
    assert resident() > before + SIZE // 2, "given back at once"
    with memory.kept():
        pass
    time.sleep(0.5)
    kept = resident()
    assert kept > before + SIZE // 2, "given back in use"
for _ in range(300):
    if resident() < kept - SIZE // 2:
        break
    time.sleep(0.1)
else:
    raise SystemExit("never given back")
"""
"""Elsewhere the memory that other tests freed is in the way."""


def test_memory_is_kept_in_use_and_given_back_when_idle() -> None:
    subprocess.run([sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], check=True, timeout=120)


def test_it_is_kept_again_after_it_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Semaphore(0)
    memory = FreedMemory(0.05)
    monkeypatch.setattr(memory, "give_back", given_back.release)
    for _ in range(2):
        with memory.kept():
            pass
        assert given_back.acquire(timeout=30)
    assert not given_back.acquire(timeout=0.3)


def test_when_idle_nothing_more_is_kept_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others free after the last retrieval goes back to the kernel: nobody would do it later."""
    calls: list[tuple[int, int]] = []
    trimmed = threading.Event()

    class Library:
        def mallopt(self, what: int, value: int) -> None:
            calls.append((what, value))

        def malloc_trim(self, kept: int) -> None:
            trimmed.set()

    monkeypatch.setattr(allocator, "_libc", Library())
    with FreedMemory(0.1).kept():
        assert (allocator._M_TRIM_THRESHOLD, 1 << 30) in calls
    assert trimmed.wait(30)
    assert dict(calls)[allocator._M_TRIM_THRESHOLD] == 64 << 20
