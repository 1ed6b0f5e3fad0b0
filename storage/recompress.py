"""What lies in blobs, compressed again by another codec; for what is kept for decades.

Each group is a step of its own that can be repeated: decode and confirm what the old blobs hold, compress it
into a new blob, verify that by decoding it, move the instances there in one durable transaction, and only
then remove old blobs in which nothing lies any more. An interruption at any point leaves the old blobs, or
the new one, in force.

A blob may hold what kills the process that compresses it, or the machine. So each try is counted in the catalog
before it is made, what was tried in vain is tried without its neighbours, and after `MOST_TRIES` left as it is.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dcmpress.codecs.registry import get_codec
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.errors import CatalogError
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.catalog.settling import BlobFacts, StoredSeries, requested_codec
from dcmpress.storage.compress import CodecChoice, CompressJob, CompressResult, compress
from dcmpress.storage.errors import NoSpaceError, StorageError
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.pipeline import PipelineSettings
from dcmpress.storage.retrieve import Failed
from dcmpress.storage.scratch import scratch_folder
from dcmpress.storage.spool import Sender, Spool, SpoolEntry
from dcmpress.storage.workers import Workers

MOST_TRIES = 3
"""Tries in vain after which a blob is left as it is. The first may be with neighbours; the others are not."""


@dataclass(frozen=True)
class Recompressed:
    """One group, compressed again."""

    instances: int
    raw_bytes: int
    old_bytes: int
    """Bytes that the group's blobs took before, by the share of the group in them."""
    new_bytes: int
    """Bytes that it takes now; `old_bytes` if the old blobs stay because they are not larger."""
    blobs: tuple[str, ...] = ()
    """Names of the old blobs."""
    problem: str = ""
    given_up: bool = False
    """Whether the blobs are left alone from now on, because of the problem."""


class _OverdueError(StorageError):
    """A codec takes too long."""


def recompress_series(
    archive: Archive,
    series: StoredSeries,
    choice: CodecChoice,
    before: datetime,
    limits: PipelineSettings,
    workers: Workers,
    go_on: Callable[[], bool] = lambda: True,
) -> Iterator[Recompressed]:
    """Compress the instances of a series by another codec; yield each group when it is done.

    `go_on` is asked before each group: when it says no, what is left is left for later.

    Raises
    ------
    NoSpaceError, OSError, CatalogError
        If the disk is full or fails, which says nothing against the images.
    BrokenProcessPool
        If the workers were ended.
    """
    requested = requested_codec(choice.codec, choice.parameters, pixel_exact=choice.pixel_exact)
    names = archive.catalog.settling.blobs_of(series.series_pk, requested, before)
    located = [item for name in names for item in archive.catalog.in_blob(name) if not item.damaged]
    for group in _groups(located, limits, archive.catalog.tries.of(names)):
        if not go_on():
            return
        yield _try(archive, group, choice, requested, limits, workers)


def _groups(
    located: list[Located], limits: PipelineSettings, tries: Mapping[str, int]
) -> Iterator[list[Located]]:
    """Whole old blobs together, as many as fit: a blob's neighbours stay neighbours. What was tried goes alone."""
    group: list[Located] = []
    size = 0
    for item in located:
        full = size + item.size > limits.group_bytes or len(group) >= limits.group_instances
        apart = group and item.blob_name != group[-1].blob_name and _tried(tries, item, group[-1])
        if group and (full or apart):
            yield group
            group, size = [], 0
        group.append(item)
        size += item.size
    if group:
        yield group


def _tried(tries: Mapping[str, int], *items: Located) -> bool:
    return any(tries.get(item.blob_name or "", 0) for item in items)


def _try(
    archive: Archive,
    group: list[Located],
    choice: CodecChoice,
    requested: str,
    limits: PipelineSettings,
    workers: Workers,
) -> Recompressed:
    """Re-compress a group, and keep count of what is in vain."""
    tries = archive.catalog.tries
    names = tuple(sorted({item.blob_name for item in group if item.blob_name}))
    problem = ""
    overdue = False
    if max(tries.of(names).values()) < MOST_TRIES:
        tries.begin(names)
        try:
            done = _recompress_group(archive, group, names, choice, requested, limits, workers)
        except (OSError, NoSpaceError, CatalogError):
            tries.take_back(names)
            raise
        except _OverdueError as error:
            problem, overdue = str(error), True
        except BrokenProcessPool:
            if workers.ended:
                tries.take_back(names)
                raise
            problem = "the worker process died"
        except Exception as error:
            problem = str(error) or repr(error)
        except BaseException:  # the command is interrupted
            tries.take_back(names)
            raise
        else:
            tries.forget(names)
            return done
    size = sum(item.size for item in group)
    counts = tries.of(names)
    # What takes too long by itself will again. What has neighbours is told from them first.
    in_vain = [name for name in names if counts[name] >= MOST_TRIES or (overdue and len(names) == 1)]
    problem = problem or "it ended the program, or the machine, that was at it"
    if in_vain:
        tries.give_up(in_vain, requested, problem[:200])
    return Recompressed(len(group), size, 0, 0, names, problem, given_up=bool(in_vain))


def _recompress_group(
    archive: Archive,
    group: list[Located],
    old_names: tuple[str, ...],
    choice: CodecChoice,
    requested: str,
    limits: PipelineSettings,
    workers: Workers,
) -> Recompressed:
    settling = archive.catalog.settling
    name = uuid.uuid4().hex
    raw = sum(item.size for item in group)
    old = sum(_share(archive, old_name, group) for old_name in old_names)
    with scratch_folder(archive.temporary, "recompress", name) as folder:
        blob_pk = settling.begin_blob(name)
        try:
            # What comes in has the right of way to the disk.
            with closing(Spool(folder, archive.spool.reserve, durable=False)) as scratch:
                entries = list(_unpack(archive, group, scratch, workers))
            job = CompressJob(
                entries=entries,
                spool_folder=str(folder),
                staged=str(archive.blobs.staged(name)),
                choice=choice,
                max_chain=limits.max_chain,
                min_correlation=limits.min_correlation,
                segment_bytes=limits.segment_bytes,
                received={
                    entry.name: item.received
                    for entry, item in zip(entries, group, strict=True)
                    if item.received is not None
                },
            )
            result = _compressed(job, workers, limits.job_seconds)
            if result.damaged:
                raise StorageError(f"scratch files are damaged: {next(iter(result.damaged.values()))}")
            if result.size >= old:
                settling.abandon_blob(blob_pk)
                archive.blobs.remove(name)
                settling.note_requested(old_names, requested)
                return Recompressed(len(group), raw, old, old, old_names)
            _settle(archive, blob_pk, name, group, entries, result, choice, requested)
        except BaseException:
            if (blob_pk, name) in settling.blobs_being_written():
                archive.blobs.remove(name)
                settling.abandon_blob(blob_pk)
            raise
    remove_unreferenced(archive)
    return Recompressed(len(group), raw, old, result.size, old_names)


def _compressed(job: CompressJob, workers: Workers, seconds: float) -> CompressResult:
    """Let a worker do a job; one that takes too long is killed."""
    future = workers.submit(compress, job)
    done, _ = wait([future], seconds)
    if not done:
        workers.kill()
        raise _OverdueError(f"{job.choice.codec} takes too long")
    result: CompressResult = future.result()
    return result


def _settle(
    archive: Archive,
    blob_pk: int,
    name: str,
    group: list[Located],
    entries: list[SpoolEntry],
    result: CompressResult,
    choice: CodecChoice,
    requested: str,
) -> None:
    archive.blobs.put(name)
    codec_id = result.codec
    parameters = dict(choice.parameters) if codec_id == choice.codec else {}
    facts = BlobFacts(
        size=result.size,
        raw_size=result.raw_size,
        n_instances=len(result.order),
        codec=codec_id,
        format_version=get_codec(codec_id, **parameters).format_version,
        parameters=parameters,
        requested=requested,
        fallback=next(iter(result.fallbacks), None),
    )
    of_entry = {entry.name: item.instance_pk for entry, item in zip(entries, group, strict=True)}
    freed = archive.catalog.settling.settle(
        blob_pk,
        facts,
        [(of_entry[entry], place) for place, entry in enumerate(result.order)],
        {of_entry[name]: form for name, form in result.forms.items()},
        {item.instance_pk: item.sha256 for item in group},
    )
    for (
        spool_name
    ) in freed:  # these very bytes were sent again meanwhile, as what lay in the old blob was damaged
        archive.spool.remove(spool_name)


def _unpack(archive: Archive, group: list[Located], scratch: Spool, workers: Workers) -> Iterator[SpoolEntry]:
    """Write the instances of a group, decoded and confirmed, as spool files; in the group's order."""
    for found in archive.retrieve(group, lambda item: item.transfer_syntax_uid):
        if workers.ended:  # a group may take a minute: the end of the node does not wait for it
            raise BrokenProcessPool("no more work is wanted")
        if isinstance(found, Failed):
            raise found.error
        item = found.located
        meta = FileMeta(item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid)
        writer = scratch.begin(meta, Sender(item.calling_ae, item.called_ae, item.remote_host))
        try:
            for piece in found.pieces():
                writer.write(piece)
            entry = writer.finish(item.received_at)
        except BaseException:
            writer.abandon()
            raise
        if entry.sha256 != item.sha256:
            raise StorageError(f"{item.sop_instance_uid} changed on its way to the scratch folder")
        yield entry


def _share(archive: Archive, blob_name: str, group: list[Located]) -> int:
    """Return the bytes of a blob that a group accounts for."""
    whole = archive.catalog.in_blob(blob_name)
    total = sum(item.size for item in whole)
    ours = sum(item.size for item in group if item.blob_name == blob_name)
    size = Path(archive.blobs.path(blob_name)).stat().st_size
    return round(size * ours / total) if total else 0


def remove_unreferenced(archive: Archive) -> int:
    """Remove blobs in which no instance lies any more; return how many."""
    unreferenced = archive.catalog.settling.unreferenced_blobs()
    for blob_pk, name in unreferenced:
        archive.catalog.settling.forget_blob(blob_pk)
        archive.blobs.remove(name)
        archive.disk_cache.remove(name)
    return len(unreferenced)
