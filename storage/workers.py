"""Processes that do the codecs' work: of low priority, and never outliving the node that began them; and the right to
let them work on an archive."""

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from time import sleep
from typing import Any


def worker_pool(workers: int, nice: int = 10) -> ProcessPoolExecutor:
    """Return a pool of processes that give way to associations (`nice`: 19 gives way to everything)."""
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=begin_worker, initargs=(os.getpid(), nice)
    )


class Workers:
    """A pool whose processes are begun when there is work, and anew when they have died.

    One thread gives work; any may end it.
    """

    def __init__(self, workers: int, nice: int = 10) -> None:
        self._workers = workers
        self._nice = nice
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self.ended = False
        """Whether no more work is wanted: what was in hand has broken, and says nothing against itself."""

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def submit(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Have a task done.

        Raises
        ------
        BrokenProcessPool
            If the end has come.
        """
        with self._lock:
            if self.ended:
                raise BrokenProcessPool("no more work is wanted")
            if self._pool is not None:
                with suppress(BrokenProcessPool):
                    return self._pool.submit(task, *arguments)
                self._pool.shutdown(wait=False)
            self._pool = worker_pool(self._workers, self._nice)
            return self._pool.submit(task, *arguments)

    def kill(self) -> None:
        """End the processes without waiting for what they are at, which breaks; there are others for what comes."""
        with self._lock:
            if self._pool is not None:
                end_at_once(self._pool)
                self._pool = None

    def end(self) -> None:
        """Do the same for good."""
        self.ended = True
        self.kill()


def end_at_once(pool: ProcessPoolExecutor) -> None:
    """End a pool without waiting for what its processes are at."""
    kill_workers(pool)
    pool.shutdown(wait=True, cancel_futures=True)


def kill_workers(pool: ProcessPoolExecutor) -> None:
    """Kill the processes of a pool: what they are at, and what waits for them, breaks."""
    for process in list((pool._processes or {}).values()):
        process.kill()


def begin_worker(node: int, nice: int) -> None:
    """Make this process a worker of the process `node`: done first in it."""
    os.nice(nice)
    with suppress(OSError):  # if memory runs short, this process is to go and not the node
        Path("/proc/self/oom_score_adj").write_text("500")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a signal to the whole process group is for the node to answer
    threading.Thread(target=_end_with, args=(node,), daemon=True).start()


def _end_with(node: int) -> None:
    while os.getppid() == node:
        sleep(0.5)
    os._exit(1)


@contextmanager
def exclusive(root: Path, name: str = "pipeline.lock") -> Iterator[bool]:
    """Hold a right on the archive under `root`, by default to compress its spool; yields whether one has it."""
    with (root / name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
