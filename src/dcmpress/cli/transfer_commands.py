"""Commands that bring files in and out: import, export, extract."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Annotated

import typer

from dcmpress import logs
from dcmpress.cli.app import FAILED, MISUSED, ConfigOption, app, fail, load_config, out
from dcmpress.cli.progress import counted
from dcmpress.cli.wiring import open_archive, open_existing_archive, pipeline_settings
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.query import Key, Query
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.errors import BlobFormatError, NoSpaceError
from dcmpress.storage.exporting import export as export_instances
from dcmpress.storage.exporting import extract as extract_blob
from dcmpress.storage.importing import Imported, files_below, import_file
from dcmpress.storage.pipeline import Pipeline
from dcmpress.storage.spool import Sender
from dcmpress.storage.workers import exclusive

_NOT_KEPT = ("not DICOM", "directory", "refused")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of DICOM files, or one file.")],
    config: ConfigOption = None,
) -> None:
    """Take DICOM files into the archive and compress them. Can be interrupted and repeated.

    Files that are not DICOM are passed over. Exit code 1 if a DICOM file could not be taken.
    """
    settings = load_config(config)
    logs.configure("warning", settings.log.format, patient_data=settings.log.patient_data)
    if not folder.exists():
        raise fail(f"{folder}: no such file or folder", MISUSED)
    archive = open_archive(settings)
    with exclusive(settings.root) as mine:
        pipeline = Pipeline(archive, pipeline_settings(settings)) if mine else None
        if mine:
            archive.recover()
        outcomes, problems = _import_all(archive, folder, pipeline)
        for problem in problems:
            out.print(problem, markup=False)
        taken = sum(n for name, n in outcomes.items() if name not in _NOT_KEPT)
        out.print(f"{taken} instances: " + ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items())))
        if pipeline is None:
            if taken:
                out.print("a node is running on this archive: it compresses them")
        else:
            before = archive.catalog.statistics()
            counters = pipeline.drain()
            after = archive.catalog.statistics()
            if counters.raw_bytes:
                ratio = counters.raw_bytes / max(1, counters.blob_bytes)
                out.print(f"compressed {counters.instances} instances {ratio:.2f} : 1")
            if after.spool_instances:
                out.print(f"{after.spool_instances} of {before.spool_instances} instances stay in the spool")
    archive.close()
    if problems:
        raise typer.Exit(FAILED)


def _import_all(archive: Archive, folder: Path, pipeline: Pipeline | None) -> tuple[Counter[str], list[str]]:
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    paths = list(files_below(folder))
    for path in counted(paths, "import", len(paths)):
        try:
            imported = _with_room(archive, path, pipeline)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        outcomes[imported.outcome] += 1
        if imported.outcome == "refused":
            problems.append(f"{path}: {imported.problem}")
        elif imported.problem:
            out.print(f"{path}: {imported.problem}", markup=False)
    return outcomes, problems


def _with_room(archive: Archive, path: Path, pipeline: Pipeline | None) -> Imported:
    """Import a file; when the disk is full, compress what waits in the spool and try again."""
    for attempt in range(3):
        try:
            return import_file(archive, path, Sender())
        except NoSpaceError:
            if pipeline is not None and archive.catalog.settling.spooled_series():
                pipeline.drain()
            elif attempt < 2:
                sleep(5)
            else:
                raise
    return import_file(archive, path, Sender())


@app.command()
def export(
    uid: Annotated[
        str | None, typer.Argument(metavar="UID", help="A Study, Series or SOP Instance UID.")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Where the files go.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Export the whole archive: --all DIR.")] = False,
    versions: Annotated[bool, typer.Option("--versions", help="Older versions of an instance too.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write plain DICOM files, DIR/STUDY/SERIES/INSTANCE.dcm. Can be interrupted and repeated.

    Exit code 1 if an instance could not be written.
    """
    if everything and folder is None and uid is not None:
        folder, uid = Path(uid), None
    if folder is None or everything == (uid is not None):
        raise fail("give a UID and a folder, or --all and a folder", MISUSED)
    archive = open_existing_archive(load_config(config))
    n = bytes_written = existed = 0
    problems = 0
    found = _everything(archive, versions) if uid is None else iter(_named(archive, uid, versions))
    for batch in found:
        for exported in counted(export_instances(archive, batch, folder), "export", len(batch)):
            if exported.problem:
                problems += 1
                out.print(f"NOT WRITTEN {exported.path}: {exported.problem}", markup=False)
                continue
            n += 1
            existed += exported.existed
            bytes_written += 0 if exported.existed else exported.size
    archive.close()
    if not n and not problems:
        raise fail(f"nothing is kept under {uid}" if uid else "the archive is empty")
    out.print(f"{n} instances, {existed} of them there already; {bytes_written} bytes written")
    if problems:
        raise typer.Exit(FAILED)


def _named(archive: Archive, uid: str, versions: bool) -> list[list[Located]]:
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        located = archive.locate(Query(Level.IMAGE, (Key.parse(keyword, uid),)))
        if located:
            return [_with_versions(archive, located) if versions else located]
    return []


def _everything(archive: Archive, versions: bool) -> Iterator[list[Located]]:
    query = Query(Level.STUDY, (), ("StudyInstanceUID",))
    for match in archive.find(query):
        yield from _named(archive, match["StudyInstanceUID"], versions)


def _with_versions(archive: Archive, located: list[Located]) -> list[Located]:
    return [version for item in located for version in archive.catalog.versions(item.sop_instance_uid)]


@app.command()
def extract(
    blob: Annotated[Path, typer.Argument(metavar="BLOB", help="A blob file.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the DICOM files go.")],
) -> None:
    """Write every instance of one blob file as a DICOM file. Needs no catalog and no configuration.

    Exit code 1 if an instance is damaged; the others are written.
    """
    n = problems = 0
    try:
        for exported in counted(extract_blob(blob, folder), "extract", None):
            if exported.problem:
                problems += 1
                out.print(f"NOT WRITTEN {exported.path}: {exported.problem}", markup=False)
            else:
                n += 1
    except FileNotFoundError:
        raise fail(f"{blob}: no such file", MISUSED) from None
    except BlobFormatError as error:
        raise fail(str(error)) from None
    out.print(f"{n} instances written to {folder}")
    if problems:
        raise typer.Exit(FAILED)
