"""Several processes that listen on the same ports, so that associations are served on all cores.

They share the listening sockets, the census and what lies on the disk; nothing else. Each opens the archive
for itself. A fork server starts them: it has loaded the program once and has no threads, so a process can
take the place of one that died at any time, and their memory is common until it is written to. What must be
there once (pipeline, commitment reports, recovery) stays in the process that started them.

Over a pipe each process is told to stop, or to take over settings. A pipe that ends is the end of the other
side: a process that died is replaced, and one whose node died ends at once.
"""

import atexit
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from typing import Any

from dcmpress.scp.census import Census
from dcmpress.scp.log import logger
from dcmpress.scp.ports import Port, bind
from dcmpress.scp.server import DicomServer
from dcmpress.scp.settings import ScpSettings
from dcmpress.storage.archive import Archive, ArchiveSettings

_ACCEPT, _STOP, _RECONFIGURE, _RUN = "accept", "stop", "reconfigure", "run"

_START_SECONDS = 60.0
"""A process that has not answered by then is not waited for."""
_ANSWER_SECONDS = 10.0
_SHORT_LIFE = 10.0
"""Seconds; what dies sooner is replaced after a pause."""
_PAUSE = 1.0
_GRACE = 10.0
"""Seconds after the shutdown timeout, then a process is killed."""

Task = Callable[[], None]
"""Something for every process to do; pickled, so a module's function or a `functools.partial` of one."""


@dataclass
class _Child:
    """A process that listens, as this one sees it."""

    index: int
    process: Any
    pipe: Pipe
    started: float
    answers: int = 0
    """What it has done of what it was told, its start included."""


class ListenerProcesses:
    """Listens on the ports of `settings` in `count` processes and serves an archive; as `DicomServer` does in one.

    Parameters
    ----------
    archive : Archive
        This process's; the others open the same.
    settings : ScpSettings
    count : int
    prepare : Task
        Done first in each process, and again when settings change: sets up its log.
    preload : sequence of str
        Modules that the fork server loads besides this one.
    """

    def __init__(
        self,
        archive: Archive,
        settings: ScpSettings,
        count: int,
        prepare: Task,
        preload: Sequence[str] = (),
    ) -> None:
        self.archive = archive
        self.settings = settings
        self._prepare = prepare
        self._census = Census.create(count)
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *preload])
        self._count = count
        self._ports: list[Port] = []
        self._listening = False
        self._children: dict[int, _Child] = {}
        self._tasks: list[Task] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="listeners", daemon=True)

    def start(self) -> int:
        """Begin to accept associations; return the port. Call it before there is anything to recover from."""
        self._ports = bind(self.settings)
        # However this process ends: multiprocessing waits for its children, and they for the end of the pipe.
        atexit.register(self._let_go)
        for index in range(self._count):
            self._children[index] = self._begin(index)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(
                lambda: all(child.answers for child in self._children.values()), _START_SECONDS
            )
            for port in self._ports:
                port.listen()
            self._listening = True
            self._tell_all((_ACCEPT,))
        return self._ports[0].number

    def reconfigure(self, settings: ScpSettings, prepare: Task | None = None) -> None:
        """Use other settings for associations to come; returns when every process does."""
        with self._changed:
            self.settings = settings
            self._prepare = prepare or self._prepare
            told = {child.index: (child, child.answers + 1) for child in self._children.values()}
            self._tell_all((_RECONFIGURE, settings, self._prepare))
            # One that died meanwhile has got the settings at its start.
            self._changed.wait_for(
                lambda: all(
                    child.answers >= answers or self._children.get(index) is not child
                    for index, (child, answers) in told.items()
                ),
                _ANSWER_SECONDS,
            )

    def run(self, task: Task) -> None:
        """Let every process do something in a thread, and those that take the place of one that dies too."""
        with self._changed:
            self._tasks.append(task)
            self._tell_all((_RUN, task))

    def stop(self) -> None:
        """Stop listening, let messages under way finish, end every association and process."""
        self._stopping.set()
        with self._changed:
            self._tell_all((_STOP,))
        for port in self._ports:
            port.close()
        deadline = time.monotonic() + self.settings.shutdown_timeout + _GRACE
        with self._changed:
            self._changed.wait_for(lambda: not self._children, deadline - time.monotonic())
            for child in self._children.values():
                logger.error("listener process does not end", process=child.process.pid)
                child.process.kill()
        if self._thread.ident is not None:
            self._thread.join(_GRACE)

    def _let_go(self) -> None:
        for child in list(self._children.values()):
            with contextlib.suppress(OSError):
                child.pipe.close()

    @property
    def n_connections(self) -> int:
        """Connections that are open now, in all processes."""
        return self._census.connections

    def _begin(self, index: int) -> _Child:
        ours, theirs = self._context.Pipe()
        census = self._census.seen_by(index)
        process: Any = self._context.Process(
            target=_serve,
            args=(census, self._ports, self.archive.settings, self.settings, self._prepare, theirs),
            name=f"listener-{index}",
            daemon=True,
        )
        try:
            process.start()
        finally:
            theirs.close()
            census.close()
        child = _Child(index, process, ours, time.monotonic())
        if self._listening:
            self._tell(child, (_ACCEPT,))
        for task in self._tasks:
            self._tell(child, (_RUN, task))
        return child

    def _tell_all(self, message: tuple[Any, ...]) -> None:
        for child in self._children.values():
            self._tell(child, message)

    @staticmethod
    def _tell(child: _Child, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # the supervisor sees that it has died
            child.pipe.send(message)

    # The supervisor's thread

    def _supervise(self) -> None:
        while True:
            with self._changed:
                pipes = {child.pipe: child for child in self._children.values()}
            if not pipes and self._stopping.is_set():
                return
            for pipe in wait(list(pipes), timeout=1.0):
                child = pipes[pipe]  # type: ignore[index]
                try:
                    child.pipe.recv()
                except (EOFError, OSError):
                    self._ended(child)
                    continue
                with self._changed:
                    child.answers += 1
                    self._changed.notify_all()

    def _ended(self, child: _Child) -> None:
        child.pipe.close()
        child.process.join(_PAUSE)
        self._census.forget(child.index)
        if not self._stopping.is_set():
            self._replace(child)
        if self._stopping.is_set():
            with self._changed:
                if self._children.get(child.index) is child:
                    del self._children[child.index]
                self._changed.notify_all()

    def _replace(self, child: _Child) -> None:
        """Put right what a process that died has left, and start another in its place."""
        logger.error("listener process died", process=child.process.pid, exit_code=child.process.exitcode)
        try:
            recovered = self.archive.recover_receipts()
            for name, problem in recovered.problems.items():
                logger.error("spool file needs attention", file=name, problem=problem)
        except Exception:
            logger.exception("recovery failed; the next start recovers")
        if time.monotonic() - child.started < _SHORT_LIFE:
            self._stopping.wait(_PAUSE)
        while not self._stopping.is_set():
            try:
                with self._changed:
                    self._children[child.index] = new = self._begin(child.index)
                    if self._stopping.is_set():  # after `stop` has told the others
                        self._tell(new, (_STOP,))
                    self._changed.notify_all()
                return
            except (OSError, EOFError) as error:
                logger.error("cannot start a listener process", problem=str(error) or repr(error))
                self._stopping.wait(_PAUSE)


def _serve(
    census: Census,
    ports: Sequence[Port],
    archive_settings: ArchiveSettings,
    settings: ScpSettings,
    prepare: Task,
    pipe: Pipe,
) -> None:
    """Be one of the processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the node's to answer, though the process group gets them
    gc.freeze()  # what the fork server has loaded stays common: the collector would write to it
    prepare()
    archive = Archive(archive_settings)
    server = DicomServer(archive, settings, census)
    pipe.send("ready")
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)  # the node is gone: without it nothing is compressed, and its ports are wanted
        match message:
            case ("accept",):
                server.start(ports)
            case ("stop",):
                break
            case ("reconfigure", settings, prepare):
                prepare()
                server.reconfigure(settings)
                pipe.send("reconfigured")
            case ("run", task):
                threading.Thread(target=task, name="task", daemon=True).start()
    server.stop()
    archive.close()
    os._exit(0)  # threads of associations that would not end
