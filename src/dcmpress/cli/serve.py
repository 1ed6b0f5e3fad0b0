"""`dcmpress serve`: the node, in the foreground."""

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from dcmpress import logs
from dcmpress.cli.app import ConfigOption, app, fail, load_config, out
from dcmpress.cli.wiring import open_archive, pipeline_settings, scp_settings
from dcmpress.config import Config, ConfigError, changed_keys, load, taken_over
from dcmpress.scp.commitment import CommitmentReporter
from dcmpress.scp.processes import ListenerProcesses
from dcmpress.scp.server import DicomServer
from dcmpress.storage.archive import Archive
from dcmpress.storage.cold import ColdStorage
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.errors import StorageError
from dcmpress.storage.pipeline import Pipeline
from dcmpress.storage.workers import exclusive

logger: Any = structlog.get_logger("dcmpress")


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the node: receive, compress, answer queries, send. Ctrl-C or SIGTERM stops it gracefully.

    SIGHUP reads the configuration again and takes over what can change while running.
    """
    settings = load_config(config)
    _logging(settings)()
    stop, reload = threading.Event(), threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        (reload if number == signal.SIGHUP else stop).set()

    signalled = _wake_on_signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)

    try:
        archive = open_archive(settings)
    except (OSError, StorageError) as error:
        raise fail(f"cannot use {settings.root}: {error}{_if_full(settings)}", 2) from None
    with exclusive(settings.root) as mine:
        if not mine:
            archive.close()
            raise fail(f"another dcmpress is at work in {settings.root}", 2)
        _recover(archive)
        server = _listeners(settings, archive)
        pipeline = Pipeline(
            archive,
            pipeline_settings(settings),
            server.run if isinstance(server, ListenerProcesses) else None,
        )
        reporter = CommitmentReporter(archive, scp_settings(settings))
        try:
            port = server.start()
        except OSError as error:
            server.stop()
            archive.close()
            raise fail(str(error), 2) from None
        reporter.start()
        pipeline.start()
        cold = _cold_storage(settings, archive)
        out.print(
            f"dcmpress: {settings.dicom.ae_title} listens on {settings.dicom.bind} port {port}; "
            f"data go to {settings.root}",
            markup=False,
        )
        gc.collect()
        gc.freeze()  # what was loaded stays: not to be walked through between two images, again and again
        logger.info("ready", ae_title=settings.dicom.ae_title, port=port, root=str(settings.root))
        while not stop.is_set():
            os.read(signalled, 1024)
            if reload.is_set():
                reload.clear()
                settings = _reload(config, settings, server, reporter, pipeline)
        logger.info("stopping", connections=server.n_connections)
        reporter.stop()
        server.stop()
        if cold is not None:
            cold.stop()
        pipeline.stop()
        archive.close()
        logger.info("stopped")


def _listeners(settings: Config, archive: Archive) -> DicomServer | ListenerProcesses:
    """Return what will listen: threads of this process, or several processes."""
    if settings.n_processes == 1:
        return DicomServer(archive, scp_settings(settings))
    return ListenerProcesses(
        archive, scp_settings(settings), settings.n_processes, _logging(settings), [__name__]
    )


def _if_full(settings: Config) -> str:
    """Say so if the disk is full, which SQLite calls an I/O error."""
    with contextlib.suppress(OSError):
        if not os.statvfs(settings.root).f_bavail:
            return "; the disk is full"
    return ""


def _logging(settings: Config) -> Callable[[], None]:
    """Return what sets up the log as configured, here or in another process."""
    log = settings.log
    return partial(logs.configure, log.level, log.format, patient_data=log.patient_data)


def _wake_on_signals() -> int:
    """Return a file descriptor that becomes readable with every signal.

    Python runs a handler between two instructions of the main thread. A signal that comes just before that
    thread blocks on a lock would wait there for ever; a byte in a pipe is not missed.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _cold_storage(settings: Config, archive: Archive) -> ColdStorage | None:
    """Begin idle-time re-compression if it is asked for."""
    if not settings.pipeline.recompress:
        return None
    cold = settings.compression.cold
    storage = ColdStorage(
        archive,
        CodecChoice(cold.codec, cold.codec_parameters, cold.pixel_exact),
        timedelta(days=cold.after_days),
        pipeline_settings(settings),
    )
    storage.start()
    return storage


def _recover(archive: Archive) -> None:
    recovered = archive.recover()
    if recovered.partial or recovered.entered or recovered.blobs or recovered.dropped or recovered.scratch:
        logger.info(
            "recovered",
            partial_removed=recovered.partial,
            entered=recovered.entered,
            dropped=recovered.dropped,
            unfinished_blobs=recovered.blobs,
            scratch_removed=recovered.scratch,
        )
    for name, problem in recovered.problems.items():
        logger.error("file needs attention", file=name, problem=problem)


def _reload(
    path: Path | None,
    old: Config,
    server: DicomServer | ListenerProcesses,
    reporter: CommitmentReporter,
    pipeline: Pipeline,
) -> Config:
    """Take over what can change; return the configuration that is in force now."""
    try:
        read = load(path)
        new = taken_over(old, read)
    except ConfigError as error:
        for line in str(error).splitlines():
            logger.error("configuration not reloaded", problem=line)
        return old
    now, later = changed_keys(old, read)
    if later:
        logger.warning("these keys need a restart", keys=later)
    _logging(new)()
    if isinstance(server, ListenerProcesses):
        server.reconfigure(scp_settings(new), _logging(new))
    else:
        server.reconfigure(scp_settings(new))
    reporter.settings = scp_settings(new)
    pipeline.settings = pipeline_settings(new)
    logger.info("configuration reloaded", changed=now)
    return new
