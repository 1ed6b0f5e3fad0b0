"""Processes that do the codecs' work: of low priority, and never outliving the node that began them; and the right to
let them work on an archive."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from time import sleep


def worker_pool(workers: int, nice: int = 10) -> ProcessPoolExecutor:
    """Return a pool of processes that give way to associations (`nice`: 19 gives way to everything)."""
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=begin_worker, initargs=(os.getpid(), nice)
    )


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
