"""From the spool into blobs, behind the acknowledgement: which series is ready, who compresses it, and the
order of steps in which no power cut can take anything.

The work itself, `compress`, runs in other processes of low priority: a codec that crashes takes only its
own process along, and associations always come first.
"""

import errno
import gc
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from time import monotonic
from typing import Any

import structlog

from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.warm import restorable_compiled, warm_all, warm_restorable
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.settling import BlobFacts, SpooledInstance, SpooledSeries, requested_codec
from dcmpress.storage.compress import (
    FALLBACK,
    KEEPS_AS_RECEIVED,
    CodecChoice,
    CompressJob,
    CompressResult,
    compress,
)
from dcmpress.storage.errors import DamagedError, MissingError, NoSpaceError
from dcmpress.storage.preview import PREVIEW_AE, write_preview
from dcmpress.storage.spool import SpoolEntry
from dcmpress.storage.workers import end_at_once, kill_workers, worker_pool

logger: Any = structlog.get_logger("dcmpress.pipeline")

_BACK_OFF = (5.0, 30.0, 120.0, 600.0)
"""Seconds until a series that failed is tried again."""

_PATIENCE = 2
"""Failures of a series after which its instances are taken one by one."""


@dataclass(frozen=True)
class CompressionRule:
    """Which codec compresses what; the first rule that matches counts."""

    choice: CodecChoice
    match: Mapping[str, str] = field(default_factory=dict)
    """Attribute -> pattern (* and ? as in a shell, several separated by a backslash); empty: everything."""

    def matches(self, attributes: Mapping[str, str]) -> bool:
        """Tell whether every pattern fits."""
        return all(
            any(fnmatchcase(attributes.get(name, ""), p) for p in pattern.split("\\"))
            for name, pattern in self.match.items()
        )


RULE_ATTRIBUTES = ("Modality", "Manufacturer", "CallingAETitle", "SOPClassUID", "TransferSyntaxUID")
"""What a rule can match on."""


@dataclass(frozen=True)
class PipelineSettings:
    """Settings of the pipeline."""

    settle_seconds: float = 10.0
    """A series that received nothing for so long is compressed."""
    group_bytes: int = 256 << 20
    """Data sets of one blob, in bytes; a series that has so many waiting is not waited for."""
    group_instances: int = 4096
    workers: int = 1
    job_seconds: float = 7200.0
    """For one group; a codec that takes longer is taken for hung."""
    max_chain: int = 16
    min_correlation: float = 0.5
    segment_bytes: int = 16 << 20
    rules: tuple[CompressionRule, ...] = ()
    previews: tuple[CompressionRule, ...] = ()
    """Lossy codecs, by name: what matches gets a derived preview beside the original."""


@dataclass
class Counters:
    """What the pipeline has done since it started."""

    groups: int = 0
    instances: int = 0
    raw_bytes: int = 0
    blob_bytes: int = 0
    previews: int = 0
    fallbacks: int = 0
    failures: int = 0
    cpu_seconds: float = 0.0


@dataclass
class _Group:
    """Instances that become one blob."""

    series_pk: int
    instances: list[SpooledInstance]
    choice: CodecChoice
    preview: CodecChoice | None = None
    blob_pk: int = 0
    blob_name: str = ""
    crashed: bool = False
    since: float = 0.0
    """When a worker may have begun it, monotonic."""


@dataclass
class _Preview:
    """A preview that is being derived."""

    original: str
    """Blob, and number of the instance in it."""
    since: float = field(default_factory=monotonic)
    """When a worker may have begun it, monotonic."""


class Pipeline:
    """Compresses what lies in the spool of one archive. One at a time works on an archive (`exclusive`).

    `where_decoded` runs a function in the processes that serve retrievals; by default in a thread of this one.
    """

    def __init__(
        self,
        archive: Archive,
        settings: PipelineSettings,
        where_decoded: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self.archive = archive
        self.settings = settings
        self._where_decoded = where_decoded or _in_thread
        self.counters = Counters()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pool: ProcessPoolExecutor | None = None
        self._compiler: ProcessPoolExecutor | None = None
        self._in_flight: dict[Future[CompressResult], _Group] = {}
        self._suspects: list[_Group] = []  # one of them killed a worker: each is tried again alone
        self._previews: dict[Future[SpoolEntry], _Preview] = {}  # being derived
        self._failed: dict[int, tuple[int, float]] = {}  # series -> (failures, not before)

    # Running

    def start(self) -> None:
        """Compress from now on, in a thread of its own, until `stop`."""
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)
        self._thread.start()

    def _warm(self) -> None:
        """Let a worker compile the kernels, then load them where retrievals decode."""
        choices = [(rule.choice.codec, rule.choice.parameters) for rule in self.settings.rules]
        warmed = self._workers().submit(warm_all, choices)

        def load(done: Future[None]) -> None:
            if self._passed(done):
                self._where_decoded(partial(_load, choices))

        warmed.add_done_callback(load)
        if any(codec not in KEEPS_AS_RECEIVED for codec, _ in choices) and not restorable_compiled():
            # Once, and for the better part of a minute: in a process of its own, so that no image waits for it.
            compiler = self._compiler = worker_pool(1, nice=19)

            def end(done: Future[None]) -> None:
                self._passed(done)
                compiler.shutdown(wait=False)

            compiler.submit(warm_restorable).add_done_callback(end)

    def _passed(self, test: Future[None]) -> bool:
        """Tell whether codecs gave back what they were given; if they did not, the log says so."""
        if test.cancelled() or self._stopping.is_set():
            return False
        if test.exception() is not None:
            logger.error("a codec fails its self-test", problem=repr(test.exception()))
        return test.exception() is None

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = worker_pool(self.settings.workers)
        return self._pool

    def stop(self) -> None:
        """End. What is being compressed is given up; it is still in the spool."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self._compiler is not None:
            end_at_once(self._compiler)
        self._abandon_all()

    def drain(self, progress: Callable[[Counters], None] = lambda _: None) -> Counters:
        """Compress everything that is in the spool now, waiting for nothing; return what was done.

        What failed once is not tried again.
        """
        try:
            while True:
                tried = self._submit_ready(quiet_since=None)
                if self._in_flight:
                    self._collect(timeout=1.0)
                elif self._previews:
                    self._enter_previews(timeout=1.0)
                elif not tried:
                    return self.counters
                progress(self.counters)
        finally:
            self._abandon_all()

    def _run(self) -> None:
        try:
            self._warm()
        except Exception:  # no memory for a process just now, say: the first blob waits for its kernels then
            logger.exception("codecs are not loaded ahead")
        with suppress(OSError):  # the next blob sees to it
            self.archive.disk_cache.trim()
        while not self._stopping.is_set():
            try:
                quiet_since = datetime.now(UTC) - timedelta(seconds=self.settings.settle_seconds)
                self._submit_ready(quiet_since)
                self._enter_previews(timeout=0)
                if self._in_flight:
                    self._collect(timeout=1.0)
                else:
                    self._stopping.wait(min(2.5, max(0.1, self.settings.settle_seconds / 4)))
            except Exception:
                logger.exception("pipeline failed; trying again")
                self.counters.failures += 1
                self._abandon_all()
                self._stopping.wait(_BACK_OFF[0])

    # Choosing

    def _submit_ready(self, quiet_since: datetime | None) -> int:
        """Hand ready groups to the workers, at most one more than there are workers; return how many."""
        room = self.settings.workers + 1 - len(self._in_flight)
        submitted = 0
        if room <= 0 or self._stopping.is_set():
            return 0
        if self._suspects:
            if self._in_flight:
                return 0
            self._submit(self._suspects.pop(0))
            return 1
        busy = {group.series_pk for group in self._in_flight.values()}
        for series in self.archive.catalog.settling.spooled_series():
            failures, not_before = self._failed.get(series.series_pk, (0, 0.0))
            if series.series_pk in busy or monotonic() < not_before or (quiet_since is None and failures):
                continue
            # One that was received in the future, by a clock that has been put right since, is not waited for.
            quiet = quiet_since is None or not quiet_since < series.newest <= datetime.now(UTC)
            for group in self._groups(series, whole=quiet, one_by_one=failures >= _PATIENCE):
                self._submit(group)
                submitted += 1
                if submitted >= room:
                    return submitted
        return submitted

    def _groups(self, series: SpooledSeries, *, whole: bool, one_by_one: bool) -> Iterator[_Group]:
        """Yield the groups of a series that are ready: all of it, or only full ones.

        `one_by_one`, by Zstandard, is for a series that has failed: one instance that cannot be compressed
        must not keep its neighbours in the spool.
        """
        limit, most = self.settings.group_bytes, 1 if one_by_one else self.settings.group_instances
        if not whole and series.size < limit and series.n_instances < most:
            return
        by_choice: dict[str, tuple[CodecChoice, CodecChoice | None, list[SpooledInstance]]] = {}
        for instance in self.archive.catalog.settling.spooled_in(series.series_pk):
            attributes = _attributes(series, instance)
            choice = _first_match(self.settings.rules, attributes)
            if one_by_one or choice is None:
                choice = CodecChoice(FALLBACK)
            derived = instance.calling_ae == PREVIEW_AE  # a preview gets no preview
            preview = None if derived else _first_match(self.settings.previews, attributes)
            by_choice.setdefault(repr((choice, preview)), (choice, preview, []))[2].append(instance)
        for choice, preview, instances in by_choice.values():
            part: list[SpooledInstance] = []
            size = 0
            for instance in instances:
                if part and (size + instance.size > limit or len(part) >= most):
                    yield _Group(series.series_pk, part, choice, preview)
                    part, size = [], 0
                part.append(instance)
                size += instance.size
            if part and whole:
                yield _Group(series.series_pk, part, choice, preview)

    # Compressing

    def _submit(self, group: _Group) -> None:
        entries = []
        for instance in list(group.instances):
            try:
                entries.append(self.archive.spool.entry(instance.spool_name))
            except (DamagedError, MissingError) as error:
                group.instances.remove(instance)
                self._mark_damaged(instance, str(error))
            except OSError as error:
                if error.errno != errno.EIO:  # says nothing against the file; others have theirs
                    self._count_failure(group, repr(error), of_disk=True)
                    return
                group.instances.remove(instance)
                self._mark_damaged(instance, f"the spool file cannot be read: {error}")
        if not entries:
            return
        group.blob_name = uuid.uuid4().hex
        group.blob_pk = self.archive.catalog.settling.begin_blob(group.blob_name)
        job = CompressJob(
            entries=entries,
            spool_folder=str(self.archive.spool.folder),
            staged=str(self.archive.blobs.staged(group.blob_name)),
            choice=CodecChoice(FALLBACK) if group.crashed else group.choice,
            max_chain=self.settings.max_chain,
            min_correlation=self.settings.min_correlation,
            segment_bytes=self.settings.segment_bytes,
        )
        try:
            self._in_flight[self._workers().submit(compress, job)] = group
            group.since = monotonic()
        except BrokenProcessPool:  # a worker died just now; those in flight are about to tell
            self._forget(group)
            if not self._in_flight:
                self._pool = None

    def _collect(self, timeout: float) -> None:
        self._end_overdue()
        done, _ = wait(self._in_flight, timeout, FIRST_COMPLETED)
        # What is done is settled before the end of a worker gives up what is not.
        for future in sorted(done, key=lambda future: future.exception() is not None):
            group = self._in_flight.pop(future, None)
            if group is None:
                continue
            try:
                self._settle(group, future.result())
                self._failed.pop(group.series_pk, None)
            except BrokenProcessPool:
                self._after_crash(group)
            except Exception as error:
                self._forget(group)
                self._count_failure(group, repr(error), of_disk=isinstance(error, OSError | NoSpaceError))

    def _end_overdue(self) -> None:
        """Kill the workers if one has been at a group for too long; `_after_crash` finds out which group."""
        now = monotonic()
        for place, group in enumerate(self._in_flight.values()):
            if place >= self.settings.workers:
                group.since = now  # it still waits for a worker
            elif not group.crashed and now - group.since > self.settings.job_seconds:
                logger.error("codec takes too long", codec=group.choice.codec, instances=len(group.instances))
                kill_workers(self._workers())
                return
        for future, preview in self._previews.items():
            if not future.running():
                preview.since = now
            elif now - preview.since > self.settings.job_seconds:
                logger.error("preview takes too long", original=preview.original)
                kill_workers(self._workers())
                if not self._in_flight:
                    self._pool = None
                return

    def _after_crash(self, first: _Group) -> None:
        """A worker died: find out whose group killed it, and compress that one by Zstandard."""
        groups = [first, *self._in_flight.values()]
        self._in_flight.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        for group in groups:
            self._forget(group)
        if len(groups) > 1:
            self._suspects += groups
        elif first.crashed:
            self._count_failure(first, "the worker process died twice")
        else:
            logger.error("worker died", codec=first.choice.codec, instances=len(first.instances))
            self.counters.fallbacks += 1
            first.crashed = True
            self._submit(first)

    def _settle(self, group: _Group, result: CompressResult) -> None:
        """Let a verified blob count: file in place, one durable transaction, then the spool copies go."""
        settling = self.archive.catalog.settling
        by_name = {instance.spool_name: instance for instance in group.instances}
        for name, problem in result.damaged.items():
            self._mark_damaged(by_name[name], problem)
        if not result.order:
            self._forget(group)
            return
        self.archive.blobs.put(group.blob_name)
        codec_id = result.codec
        chosen = codec_id == group.choice.codec and not group.crashed
        parameters = dict(group.choice.parameters) if chosen else {}
        facts = BlobFacts(
            size=result.size,
            raw_size=result.raw_size,
            n_instances=len(result.order),
            codec=codec_id,
            format_version=get_codec(codec_id, **parameters).format_version,
            parameters=parameters,
            requested=requested_codec(
                group.choice.codec, group.choice.parameters, pixel_exact=group.choice.pixel_exact
            ),
            fallback="the worker process died" if group.crashed else next(iter(result.fallbacks), None),
        )
        placements = [(by_name[name].instance_pk, k) for k, name in enumerate(result.order)]
        forms = {by_name[name].instance_pk: form for name, form in result.forms.items()}
        made_from = {instance.instance_pk: instance.sha256 for instance in group.instances}
        freed = settling.settle(group.blob_pk, facts, placements, forms, made_from)
        # From here on the blob is the only copy: nothing that fails now may reach `_forget`.
        try:
            numbers = {name: number for number, name in enumerate(result.order)}
            for name in freed:
                if name in result.forms:  # the blob holds another encoding: these bytes are not to be served
                    self.archive.spool.remove(name)
                else:
                    self.archive.release(name, group.blob_name, numbers[name])
            self.archive.disk_cache.trim()
            self._report(group, result, codec_id)
            self._derive_previews(group, len(result.order))
        except Exception:
            logger.exception("spool files left behind; the next start removes them", blob=group.blob_name)

    def _derive_previews(self, group: _Group, n_instances: int) -> None:
        if group.preview is None:
            return
        blob, spool = str(self.archive.blobs.path(group.blob_name)), self.archive.spool
        for number in range(n_instances):
            future = self._workers().submit(
                write_preview, blob, number, group.preview, str(spool.folder), spool.reserve
            )
            self._previews[future] = _Preview(f"{group.blob_name} {number}")

    def _enter_previews(self, timeout: float) -> None:
        """Enter the previews that workers have derived; one that cannot be is reported and left out."""
        self._end_overdue()
        done, _ = wait(self._previews, timeout, FIRST_COMPLETED)
        for future in done:
            original = self._previews.pop(future).original
            try:
                self.archive.enter(future.result())
                self.counters.previews += 1
            except Exception as error:
                logger.warning("no preview", original=original, problem=str(error) or repr(error))

    def _mark_damaged(self, instance: SpooledInstance, problem: str) -> None:
        """Note that a spool file is damaged, unless the instance has another one or is gone by now."""
        versions = self.archive.catalog.versions(instance.sop_instance_uid)
        if all(version.spool_name != instance.spool_name for version in versions):
            return
        self.archive.catalog.settling.mark_damaged([instance.instance_pk], problem)
        logger.error("spool file damaged", sop_instance=instance.sop_instance_uid, problem=problem)

    def _report(self, group: _Group, result: CompressResult, codec_id: str) -> None:
        counters = self.counters
        counters.groups += 1
        counters.instances += len(result.order)
        counters.raw_bytes += result.received_size
        counters.blob_bytes += result.size
        counters.fallbacks += len(result.fallbacks)
        counters.cpu_seconds += result.seconds
        for fallback in result.fallbacks:
            logger.warning("codec not used", reason=fallback, blob=group.blob_name)
        logger.info(
            "compressed",
            blob=group.blob_name,
            instances=len(result.order),
            codec=codec_id,
            raw_bytes=result.received_size,
            bytes=result.size,
            outdone=result.outdone,
            pixel_exact=len(result.forms),
            ratio=round(result.received_size / max(1, result.size), 2),
            cpu_seconds=round(result.seconds, 2),
        )

    def _count_failure(self, group: _Group, problem: str, *, of_disk: bool = False) -> None:
        failures = self._failed.get(group.series_pk, (0, 0.0))[0] + 1
        if of_disk:  # says nothing against the images: they wait for space, and are not taken one by one
            failures = min(failures, _PATIENCE - 1)
            self.archive.disk_cache.make_room(sum(instance.size for instance in group.instances))
        pause = _BACK_OFF[min(failures, len(_BACK_OFF)) - 1]
        self._failed[group.series_pk] = (failures, monotonic() + pause)
        self.counters.failures += 1
        logger.error("group not compressed", instances=len(group.instances), problem=problem, retry_in=pause)

    def _forget(self, group: _Group) -> None:
        """Give up a blob. What cannot be tidied now stays for `Archive.recover`; nothing is raised."""
        try:
            # A commit whose answer got lost has happened all the same: such a blob stays.
            if not self.archive.catalog.in_blob(group.blob_name):
                self.archive.blobs.remove(group.blob_name)
                self.archive.catalog.settling.abandon_blob(group.blob_pk)
        except Exception:
            logger.exception("an unfinished blob is left behind", blob=group.blob_name)

    def _abandon_all(self) -> None:
        if self._pool is not None:
            end_at_once(self._pool)
            self._pool = None
        for group in self._in_flight.values():
            self._forget(group)
        self._in_flight.clear()
        self._previews.clear()
        self._suspects.clear()


def _load(choices: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    warm_all([(name, dict(parameters)) for name, parameters in choices])
    gc.freeze()  # the kernels stay; the collector need not walk through them


def _in_thread(task: Callable[[], None]) -> None:
    threading.Thread(target=task, name="warm", daemon=True).start()


def _attributes(series: SpooledSeries, instance: SpooledInstance) -> dict[str, str]:
    """Return what a rule can match on; see RULE_ATTRIBUTES."""
    return {
        "Modality": series.modality,
        "Manufacturer": series.manufacturer,
        "CallingAETitle": instance.calling_ae,
        "SOPClassUID": instance.sop_class_uid,
        "TransferSyntaxUID": instance.transfer_syntax_uid,
    }


def _first_match(rules: tuple[CompressionRule, ...], attributes: Mapping[str, str]) -> CodecChoice | None:
    return next((rule.choice for rule in rules if rule.matches(attributes)), None)
