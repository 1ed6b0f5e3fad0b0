"""Idle-time re-compression: what has lain for some days is made smaller while nothing else is to do."""

import threading
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.settling import requested_codec
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.errors import NoSpaceError
from dcmpress.storage.pipeline import PipelineSettings
from dcmpress.storage.recompress import Recompressed, recompress_series, remove_unreferenced
from dcmpress.storage.workers import Workers, exclusive

logger: Any = structlog.get_logger("dcmpress.cold")

_LOOK_EVERY = 60.0
"""Seconds between two looks for work."""

_AFTER_TROUBLE = 600.0
"""Seconds until the next look when disk or catalog fail: what was done until then is done anew."""

_LOWEST_PRIORITY = 19


class ColdStorage:
    """Re-compresses in a thread, by one worker of the lowest priority, as long as the spool is empty."""

    def __init__(
        self, archive: Archive, choice: CodecChoice, after: timedelta, limits: PipelineSettings
    ) -> None:
        self.archive = archive
        self.choice = choice
        self.after = after
        self.limits = limits
        self._stopping = threading.Event()
        self._workers = Workers(1, nice=_LOWEST_PRIORITY)
        self._thread = threading.Thread(target=self._run, name="cold", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a group that is being compressed is given up, its old blobs stay."""
        self._stopping.set()
        self._workers.end()
        self._thread.join()

    def _run(self) -> None:
        pause = _LOOK_EVERY
        while not self._stopping.wait(pause):
            pause = _LOOK_EVERY
            try:
                self._work()
            except BrokenProcessPool:
                pass  # the end has come
            except (OSError, NoSpaceError) as error:
                logger.warning("re-compression waits", problem=str(error), retry_in=_AFTER_TROUBLE)
                pause = _AFTER_TROUBLE
            except Exception:
                if not self._stopping.is_set():
                    logger.exception("re-compression failed; trying again later", retry_in=_AFTER_TROUBLE)
                pause = _AFTER_TROUBLE

    def _idle(self) -> bool:
        return not self._stopping.is_set() and not self.archive.catalog.settling.spooled_series()

    def _work(self) -> None:
        with exclusive(self.archive.settings.root, "recompress.lock") as mine:
            if mine:  # else `dcmpress recompress` is at it
                self._recompress()

    def _recompress(self) -> None:
        remove_unreferenced(self.archive)
        before = datetime.now(UTC) - self.after
        requested = requested_codec(
            self.choice.codec, self.choice.parameters, pixel_exact=self.choice.pixel_exact
        )
        waiting = self.archive.catalog.settling.stored_otherwise(requested, before)
        if not waiting or not self._idle():
            return
        try:
            for series in waiting:
                for done in recompress_series(
                    self.archive, series, self.choice, before, self.limits, self._workers, self._idle
                ):
                    _report(done)
                if not self._idle():
                    return
        finally:
            self._workers.kill()  # idle ones would hold their memory


def _report(done: Recompressed) -> None:
    if not done.problem:
        logger.info(
            "re-compressed",
            instances=done.instances,
            raw_bytes=done.raw_bytes,
            old_bytes=done.old_bytes,
            new_bytes=done.new_bytes,
        )
    elif done.given_up:
        logger.error("re-compression given up", blobs=done.blobs, problem=done.problem)
    else:
        logger.warning("not re-compressed", blobs=done.blobs, problem=done.problem)
