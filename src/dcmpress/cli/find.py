"""`dcmpress find`: what is kept, without a DICOM workstation."""

import difflib
import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer

from dcmpress.cli.app import FAILED, MISUSED, ConfigOption, app, fail, load_config, out
from dcmpress.cli.wiring import open_existing_archive
from dcmpress.storage.catalog.attributes import BY_KEYWORD, Level
from dcmpress.storage.catalog.errors import QueryError
from dcmpress.storage.catalog.query import Key, Query


class Wanted(StrEnum):
    """Levels to search at."""

    study = "study"
    series = "series"
    image = "image"


SHOWN = {
    Wanted.study: (
        "StudyInstanceUID",
        "StudyDate",
        "ModalitiesInStudy",
        "NumberOfStudyRelatedInstances",
        "PatientID",
        "PatientName",
        "StudyDescription",
    ),
    Wanted.series: (
        "SeriesInstanceUID",
        "StudyDate",
        "Modality",
        "NumberOfSeriesRelatedInstances",
        "PatientID",
        "SeriesDescription",
    ),
    Wanted.image: ("SOPInstanceUID", "Modality", "InstanceNumber", "SOPClassUID"),
}


@app.command()
def find(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEYWORD=VALUE", help="What must match, as in C-FIND.")
    ] = None,
    level: Annotated[Wanted, typer.Option(help="What to look for.")] = Wanted.study,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one object a line.")] = False,
    config: ConfigOption = None,
) -> None:
    """List what is kept: dcmpress find PatientName='DOE*' StudyDate=20260101-

    Values are those of a C-FIND: * and ? are wildcards, dates have ranges, several values are separated by a
    backslash. The UIDs in the first column are what `export` takes. Exit code 1 if nothing matches.
    """
    wanted = _keys(keys or [], Level[level.name.upper()])
    columns = tuple(dict.fromkeys([*SHOWN[level], *(key.attribute.keyword for key in wanted)]))
    archive = open_existing_archive(load_config(config))
    try:
        found = archive.find(Query(Level[level.name.upper()], tuple(wanted), columns))
        rows = ({name: match.get(name, "") for name in columns} for match in found)
        n = _print_json(rows) if as_json else _print_table(columns, rows)
    finally:
        archive.close()
    if not n:
        raise typer.Exit(FAILED)


def _keys(texts: list[str], level: Level) -> list[Key]:
    keys = []
    for text in texts:
        keyword, separator, value = text.partition("=")
        if not separator:
            raise fail(f"{text}: write KEYWORD=VALUE", MISUSED)
        attribute = BY_KEYWORD.get(keyword)
        if attribute is None:
            near = difflib.get_close_matches(keyword, BY_KEYWORD, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise fail(f"the catalog does not keep {keyword}{hint}", MISUSED)
        if attribute.level > level:
            raise fail(f"{keyword} is looked for with --level {attribute.level.name.lower()}", MISUSED)
        try:
            keys.append(Key.parse(keyword, value))
        except QueryError as error:
            raise fail(str(error), MISUSED) from None
    return keys


def _print_json(rows: Iterator[dict[str, str]]) -> int:
    n = 0
    for row in rows:
        out.print(json.dumps(row, ensure_ascii=False), markup=False)
        n += 1
    return n


def _print_table(columns: tuple[str, ...], rows: Iterator[dict[str, str]]) -> int:
    lines = [columns, *(tuple(_printable(row[name]) for name in columns) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines if len(lines) > 1 else []:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out.print("  ".join(cells).rstrip(), markup=False)
    return len(lines) - 1


def _printable(text: str) -> str:
    """Return a value without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)
