"""Commands that look at what the archive keeps: stats, verify, inspect, rebuild."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dcmpress.cli.app import FAILED, MISUSED, ConfigOption, app, fail, load_config, out
from dcmpress.cli.progress import counted
from dcmpress.cli.wiring import archive_settings, open_archive, open_existing_archive
from dcmpress.config import Config
from dcmpress.storage.archive import Archive
from dcmpress.storage.blob import BlobReader
from dcmpress.storage.catalog.errors import CatalogError
from dcmpress.storage.catalog.statistics import Share, Statistics
from dcmpress.storage.errors import DamagedError
from dcmpress.storage.folders import flush_folder
from dcmpress.storage.rebuild import rebuild_blobs
from dcmpress.storage.verify import verify as verify_archive
from dcmpress.storage.workers import exclusive


@app.command()
def stats(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    attention: Annotated[
        bool, typer.Option("--attention", help="List what needs attention, instances and blobs, and why.")
    ] = False,
) -> None:
    """Show what the archive holds and how much smaller it is, by modality and by codec."""
    settings = load_config(config)
    archive = open_existing_archive(settings)
    found = archive.catalog.statistics()
    listed = archive.catalog.attention() if attention else []
    left_alone = archive.catalog.tries.left_alone()
    cached = archive.disk_cache.size()
    archive.close()
    if attention:
        for item in listed:
            note = f"damaged: {item.reason}" if item.damaged else item.reason
            out.print(f"{item.sop_instance_uid}  {note}", markup=False)
        for blob in left_alone:
            out.print(f"blob {blob.blob_name}  not re-compressed, kept as it is: {blob.reason}", markup=False)
        return
    if as_json:
        out.print(json.dumps(_as_json(found, cached) | {"left_alone": len(left_alone)}), markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("", "instances", "raw", "stored", "ratio"):
        table.add_column(name, justify="left" if not name else "right")
    total = Share(found.instances, found.raw_bytes, found.stored_bytes)
    rows = [("all", total)]
    rows += [(f"  {name or 'no modality'}", share) for name, share in sorted(found.by_modality.items())]
    rows += [("by codec", None)]  # type: ignore[list-item]
    rows += [(f"  {name}", share) for name, share in sorted(found.by_codec.items())]
    for name, share in rows:
        if share is None:
            table.add_row(name)
            continue
        table.add_row(
            name, str(share.instances), _size(share.raw_bytes), _size(share.stored_bytes), _ratio(share)
        )
    out.print(table)
    out.print(f"in the spool, not compressed yet: {found.spool_instances} instances")
    if cached:
        out.print(f"received lately and kept as plain files as well, for retrieval: {_size(cached)}")
    if found.pixel_exact:
        out.print(f"kept pixel-exact, without the bytes that were received: {found.pixel_exact} instances")
    if found.fallbacks:
        out.print(f"blobs in which Zstandard took over from the codec that the rule names: {found.fallbacks}")
    if left_alone:
        out.print(
            f"blobs that re-compression failed on and leaves as they are: {len(left_alone)} (--attention lists them)"
        )
    if found.needs_attention or found.damaged:
        out.print(
            f"need attention: {found.needs_attention} instances; damaged: {found.damaged} (--attention lists them)"
        )


def _as_json(found: Statistics, cached: int) -> dict[str, Any]:
    def shares(by: dict[str, Share]) -> dict[str, Any]:
        return {
            name: {"instances": s.instances, "raw_bytes": s.raw_bytes, "stored_bytes": s.stored_bytes}
            for name, s in by.items()
        }

    return {
        "instances": found.instances,
        "raw_bytes": found.raw_bytes,
        "stored_bytes": found.stored_bytes,
        "spool": {"instances": found.spool_instances, "bytes": found.spool_bytes},
        "disk_cache": {"bytes": cached},
        "needs_attention": found.needs_attention,
        "damaged": found.damaged,
        "fallbacks": found.fallbacks,
        "pixel_exact": found.pixel_exact,
        "by_modality": shares(found.by_modality),
        "by_codec": shares(found.by_codec),
    }


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.2f} TB"


def _ratio(share: Share) -> str:
    return f"{share.raw_bytes / share.stored_bytes:.2f}" if share.stored_bytes else "-"


@app.command()
def verify(config: ConfigOption = None) -> None:
    """Read and decode everything, and compare it with the SHA-256 taken on receipt.

    Names what does not hold; such instances are refused on retrieval until the same bytes are sent again,
    or the file is restored from a copy and verified. Exit code 1 if anything is damaged.
    """
    archive = open_existing_archive(load_config(config))
    instances = size = 0
    problems = []
    total = sum(1 for _ in archive.blobs.names()) + len(archive.spool.names())
    for verified in counted(verify_archive(archive), "verify", total):
        instances += verified.instances
        size += verified.size
        for problem in verified.problems:
            problems.append(problem)
            named = filter(None, ("DAMAGED", problem.place, problem.sop_instance_uid, problem.what))
            out.print(" ".join(named), markup=False)
    archive.close()
    out.print(f"{instances} instances in {_size(size)} checked, {len(problems)} problems")
    if problems:
        raise typer.Exit(FAILED)


@app.command()
def inspect(
    blob: Annotated[Path, typer.Argument(metavar="BLOB", help="A blob file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole index.")] = False,
) -> None:
    """Show what a blob file holds. Needs the file alone."""
    try:
        reader = BlobReader(blob)
    except FileNotFoundError:
        raise fail(f"{blob}: no such file", MISUSED) from None
    except DamagedError as error:
        raise fail(str(error)) from None
    with reader:
        index = reader.index
        if as_json:
            out.print(index.to_json().decode(), markup=False)
            return
        raw = sum(instance.size for instance in index.instances)
        out.print(f"{blob.name}: {len(index.instances)} instances, {_size(raw)} in {_size(reader.size)}")
        out.print(f"written by {index.writer} at {index.created_at}, id {reader.id}", markup=False)
        sections = Table("section", "kind", "stored", "decompressed", box=None, pad_edge=False)
        for number in range(reader.n_sections):
            stored, size = reader.section_sizes(number)
            kind = reader.section_kind(number).decode("latin-1")
            sections.add_row(str(number), kind, str(stored), str(size))
        out.print(sections)
        segments = Table("section", "codec", "frames", "alone", "of", box=None, pad_edge=False)
        for segment in index.segments:
            first = index.pixel_formats[index.instances[segment.frames[0][0]].pixel_format]
            parameters = ", ".join(f"{k}={v}" for k, v in segment.parameters.items())
            segments.add_row(
                str(segment.section),
                f"{segment.codec} v{segment.format_version} {parameters}".strip(),
                str(len(segment.frames)),
                str(segment.references.count(-1)),
                f"{first.columns} x {first.rows} x {first.samples}, {first.bits_allocated} bits",
            )
        out.print(segments)
        for instance in index.instances:
            came = instance.received
            note = (
                f"; received as {came.size} bytes in {came.transfer_syntax_uid}, which are not kept"
                if came
                else ""
            )
            out.print(
                f"{instance.sop_instance_uid}  {instance.size} bytes, {instance.n_frames} frames, "
                f"{instance.transfer_syntax_uid}{note}",
                markup=False,
            )


@app.command()
def rebuild(config: ConfigOption = None) -> None:
    """Make the whole catalog anew from blobs and spool. The old one is kept beside it.

    The node must not be running. Until the new catalog is whole the old one stays in force.
    """
    settings = load_config(config)
    settings.root.mkdir(parents=True, exist_ok=True)
    with exclusive(settings.root) as mine, exclusive(settings.root, "recompress.lock") as alone:
        if not (mine and alone):
            raise fail(f"a dcmpress is at work in {settings.root}: stop it first", MISUSED)
        place = _sqlite_file(settings)
        anew = place.with_name(f"{place.name}.rebuilding") if place else None
        archive = Archive(
            replace(archive_settings(settings), catalog_url=_emptied(anew) or settings.catalog_url)
        )
        total = sum(1 for _ in archive.blobs.names())
        instances = 0
        problems: dict[str, str] = {}
        for rebuilt in counted(rebuild_blobs(archive), "rebuild", total):
            instances += rebuilt.instances
            if rebuilt.problem:
                problems[rebuilt.blob] = rebuilt.problem
        if place and anew:
            if place.exists():
                _carry_over(archive, place)
            archive.close()
            _put_in_place(anew, place)
            archive = open_archive(settings)
        # By the new catalog only: what that knows of a blob, the old one may take for unfinished.
        recovered = archive.recover()
        problems |= recovered.problems
        archive.close()
    for what, problem in problems.items():
        out.print(f"LEFT OUT {what} {problem}", markup=False)
    out.print(f"{instances} instances from {total} blobs, {recovered.entered} from the spool")
    if problems:
        raise typer.Exit(FAILED)


def _carry_over(archive: Archive, old: Path) -> None:
    """Take over what no blob says: the requests for storage commitment that are not answered yet."""
    try:
        requests = archive.catalog.commitments.carry_over(f"sqlite:///{old}")
    except CatalogError as error:
        out.print(f"requests for storage commitment are lost: the old catalog cannot be read: {error}")
        return
    if requests:
        out.print(f"{requests} requests for storage commitment taken over, still to be answered")


def _sqlite_file(settings: Config) -> Path | None:
    """Return the file of an SQLite catalog; another database is completed where it is."""
    url = settings.catalog_url
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


_BESIDE = ("-wal", "-shm")
"""Suffixes of what SQLite keeps beside a catalog."""


def _emptied(file: Path | None) -> str:
    """Return the URL of a catalog that is not there yet, whatever an interrupted rebuild has left; "" without one."""
    if file is None:
        return ""
    for suffix in ("", *_BESIDE):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    return f"sqlite:///{file}"


def _put_in_place(anew: Path, place: Path) -> None:
    """Let a catalog that is closed take the place of the one that is there, which is kept beside it."""
    if anew.with_name(f"{anew.name}-wal").exists():
        raise fail(f"{anew} could not be completed; the catalog is the old one still")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    old = place.with_name(f"{place.name}.before-{stamp}")
    for suffix in _BESIDE:
        file = place.with_name(place.name + suffix)
        if file.exists():
            file.rename(old.with_name(old.name + suffix))
    if place.exists():
        try:
            old.hardlink_to(place)
        except OSError:  # a file system that has none
            place.rename(old)
    anew.replace(place)
    flush_folder(place.parent)
