"""`dcmpress recompress`: compress again what lies in blobs."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from dcmpress import logs
from dcmpress.cli.app import FAILED, MISUSED, ConfigOption, app, fail, load_config, out
from dcmpress.cli.progress import bar
from dcmpress.cli.wiring import open_existing_archive, pipeline_settings
from dcmpress.codecs.registry import get_codec
from dcmpress.storage.catalog.settling import StoredSeries, requested_codec
from dcmpress.storage.compress import KEEPS_AS_RECEIVED, CodecChoice
from dcmpress.storage.errors import NoSpaceError
from dcmpress.storage.pipeline import CompressionRule
from dcmpress.storage.recompress import Recompressed, recompress_series, remove_unreferenced
from dcmpress.storage.workers import Workers, exclusive

WHERE = ("Modality", "Manufacturer")


@app.command()
def recompress(
    effort: Annotated[str | None, typer.Option(help="Effort of the codec.")] = None,
    codec: Annotated[str, typer.Option(help="Codec.")] = "interframe",
    where: Annotated[
        list[str] | None, typer.Option(help=f"Only series with ATTRIBUTE=PATTERN; {' or '.join(WHERE)}.")
    ] = None,
    older_than: Annotated[float, typer.Option(help="Only what was compressed so many days ago.", min=0)] = 0,
    pixel_exact: Annotated[
        bool,
        typer.Option(
            "--pixel-exact",
            help="What arrived losslessly compressed, and cannot be given back to the byte, is kept as samples.",
        ),
    ] = False,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry", help="Also what this codec and effort failed on too often to be tried again."
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Compress again what lies in blobs, by another codec or effort. Can be interrupted and repeated.

    Every instance is decoded, confirmed by its SHA-256, compressed, and verified again before the old blob
    goes. A blob that would not become smaller stays. The node may be running. Exit code 1 if something
    could not be re-compressed; it is kept as it was, and after three tries in vain left alone. With
    --pixel-exact received bytes may go: see the same key of a rule in config.yaml.
    """
    settings = load_config(config)
    logs.configure("warning", settings.log.format, patient_data=settings.log.patient_data)
    parameters: dict[str, Any] = {} if effort is None else {"effort": effort}
    try:
        if not get_codec(codec, **parameters).lossless:
            raise fail(f"{codec} is lossy", MISUSED)
    except ValueError as error:
        raise fail(str(error), MISUSED) from None
    if pixel_exact and codec in KEEPS_AS_RECEIVED:
        raise fail(f"--pixel-exact: {codec} keeps bytes as they came", MISUSED)
    choice = CodecChoice(codec, parameters, pixel_exact)
    requested = requested_codec(codec, parameters, pixel_exact=pixel_exact)
    rule = CompressionRule(choice, _patterns(where or []))
    archive = open_existing_archive(settings)
    with exclusive(settings.root, "recompress.lock") as mine:
        if not mine:
            raise fail("another recompress is at work", MISUSED)
        before = datetime.now(UTC) - timedelta(days=older_than)
        if retry:
            archive.catalog.tries.try_again(requested)
        waiting = [
            series
            for series in archive.catalog.settling.stored_otherwise(requested, before)
            if rule.matches({"Modality": series.modality, "Manufacturer": series.manufacturer})
        ]
        old = new = instances = 0
        problems: list[str] = []
        total = sum(series.size for series in waiting)
        limits = pipeline_settings(settings)
        with bar() as progress, Workers(limits.workers) as workers:
            task = progress.add_task("recompress", total=total)
            try:
                for series in waiting:
                    for done in recompress_series(archive, series, choice, before, limits, workers):
                        if done.problem:
                            problems.append(_problem(series, done))
                        else:
                            instances += done.instances
                            old += done.old_bytes
                            new += done.new_bytes
                        saved = f"{100 * (1 - new / old):.1f} % saved" if old else "recompress"
                        progress.update(task, advance=done.raw_bytes, description=saved)
            except (OSError, NoSpaceError) as error:
                problems.append(f"{error}; what is left can be done by the same command")
        remove_unreferenced(archive)
    archive.close()
    for problem in problems:
        out.print(problem, markup=False)
    saved = f", {100 * (1 - new / old):.1f} % saved" if old else ""
    out.print(f"{instances} instances in {len(waiting)} series: {old} bytes before, {new} now{saved}")
    if problems:
        raise typer.Exit(FAILED)


def _problem(series: StoredSeries, done: Recompressed) -> str:
    then = "; left alone from now on (--retry tries it again)" if done.given_up else ""
    return f"{_name(series)}, blob {', '.join(done.blobs)}: {done.problem}{then}"


def _patterns(where: list[str]) -> dict[str, str]:
    patterns = {}
    for text in where:
        attribute, separator, pattern = text.partition("=")
        if not separator or attribute not in WHERE:
            raise fail(f"--where {text}: write ATTRIBUTE=PATTERN with {' or '.join(WHERE)}", MISUSED)
        patterns[attribute] = pattern
    return patterns


def _name(series: StoredSeries) -> str:
    return f"series {series.series_pk} ({series.modality or 'no modality'}, {series.n_instances} instances)"
