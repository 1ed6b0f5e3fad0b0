"""Processes that decode what another node sends, so that a stream that crashes a codec takes only them along.

`confirming.py` is what runs in one. It is asked over a pipe, a line of JSON each way, and is kept for the next blob
for a while: loading the program takes longer than decoding a series. Not a pool of `multiprocessing`, because the
listener processes, which are daemons, may have none.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcmpress.storage.errors import DamagedError, NoSpaceError

IDLE_SECONDS = 60.0
"""After so long without work a process ends by itself."""


class Confirmer:
    """One process, used by one thread at a time."""

    command: tuple[str, ...] = (sys.executable, "-m", "dcmpress.storage.confirming")

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.last_used = time.monotonic()

    def confirm(self, blob: Path, patience: float) -> bool:
        """Check every byte of a blob; tell whether each of its data sets is one that nothing speaks against.

        Raises
        ------
        DamagedError
            If something does not hold, or it takes longer than `patience` seconds, or ends the process.
        """
        return bool(self._ask(patience, blob=str(blob))["ordinary"])

    def unpack(self, number: int, target: Path, patience: float) -> None:
        """Write the data set `number` of the blob that was confirmed last to a file.

        Raises
        ------
        NoSpaceError, DamagedError
        """
        self._ask(patience, number=number, target=str(target))

    def _ask(self, patience: float, **request: Any) -> dict[str, Any]:
        line = b""
        with contextlib.suppress(OSError):  # a broken pipe: it has died
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            line = self._line(time.monotonic() + patience)
        self.last_used = time.monotonic()
        if not line.endswith(b"\n"):
            hung = self._process.poll() is None and not line
            self.end()
            raise DamagedError(
                "decoding it takes too long" if hung else "decoding it ends the process that does"
            )
        reply: dict[str, Any] = json.loads(line)
        if "full" in reply:
            raise NoSpaceError(reply["full"])
        if "damaged" in reply:
            raise DamagedError(reply["damaged"])
        return reply

    def _line(self, deadline: float) -> bytes:
        """Read an answer; what comes of it until the process ends or the time is up."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        line = b""
        while not line.endswith(b"\n") and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            piece = os.read(fd, 1 << 16)
            if not piece:
                self._process.wait()
                break
            line += piece
        return line

    @property
    def usable(self) -> bool:
        """Whether it runs, and will not end by itself just now."""
        return self._process.poll() is None and time.monotonic() - self.last_used < IDLE_SECONDS / 2

    def end(self) -> None:
        """End the process at once."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()


class Confirmers:
    """The processes of one archive: started when they are needed, one for each blob that is coming in."""

    def __init__(self) -> None:
        self._idle: list[Confirmer] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lent(self) -> Iterator[Confirmer]:
        """Lend one that nobody else uses."""
        with self._lock:
            usable = [confirmer for confirmer in self._idle if confirmer.usable]
            unusable = [confirmer for confirmer in self._idle if confirmer not in usable]
            lent = usable.pop() if usable else None
            self._idle = usable
        for confirmer in unusable:
            confirmer.end()
        lent = lent or Confirmer()
        try:
            yield lent
        finally:
            with self._lock:
                kept = lent.usable
                if kept:
                    self._idle.append(lent)
            if not kept:
                lent.end()

    def close(self) -> None:
        """End those that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, []
        for confirmer in idle:
            confirmer.end()
