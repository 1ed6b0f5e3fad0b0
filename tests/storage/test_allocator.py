"""Freed memory is kept while data sets go out, and given back when none do."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dcmpress.storage import allocator
from dcmpress.storage.allocator import FreedMemory

SIZE = 24 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_is_kept_in_use_and_given_back_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "IDLE_SECONDS", 0.2)
    given_back = threading.Event()
    give_back = allocator._give_back

    def noted() -> None:
        give_back()
        given_back.set()

    monkeypatch.setattr(allocator, "_give_back", noted)
    memory = FreedMemory()
    with memory.kept():
        before = resident()
        for _ in range(3):
            np.ones(SIZE, np.uint8)
        assert resident() > before + SIZE // 2
        with memory.kept():
            pass
        time.sleep(0.5)
        assert not given_back.is_set()
        kept = resident()
    assert given_back.wait(30)
    assert resident() < kept - SIZE // 2


def test_it_is_kept_again_after_it_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "IDLE_SECONDS", 0.05)
    given_back = threading.Semaphore(0)
    monkeypatch.setattr(allocator, "_give_back", given_back.release)
    memory = FreedMemory()
    for _ in range(2):
        with memory.kept():
            pass
        assert given_back.acquire(timeout=30)
    assert not given_back.acquire(timeout=0.3)


def test_when_idle_nothing_more_is_kept_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others free after the last retrieval goes back to the kernel: nobody would do it later."""
    monkeypatch.setattr(allocator, "IDLE_SECONDS", 0.1)
    calls: list[tuple[int, int]] = []
    trimmed = threading.Event()

    class Library:
        def mallopt(self, what: int, value: int) -> None:
            calls.append((what, value))

        def malloc_trim(self, kept: int) -> None:
            trimmed.set()

    monkeypatch.setattr(allocator, "_libc", Library())
    with FreedMemory().kept():
        assert (allocator._M_TRIM_THRESHOLD, 1 << 30) in calls
    assert trimmed.wait(30)
    assert dict(calls)[allocator._M_TRIM_THRESHOLD] == 64 << 20
