"""`dcmpress estimate`: what an archive would shrink to, asked before anything is installed."""

import random
import shutil
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dcmpress import logs
from dcmpress.cli.app import MISUSED, ConfigOption, app, fail, load_config, notes, out
from dcmpress.cli.progress import counted
from dcmpress.cli.wiring import pipeline_settings
from dcmpress.config import Config
from dcmpress.storage.archive import WANTED
from dcmpress.storage.compress import CodecChoice, CompressJob, compress
from dcmpress.storage.errors import StorageError
from dcmpress.storage.importing import files_below
from dcmpress.storage.leading import read_leading
from dcmpress.storage.part10 import FileMeta, guess_transfer_syntax, read_part10
from dcmpress.storage.pipeline import CompressionRule
from dcmpress.storage.spool import Sender, Spool, SpoolEntry

PEERS = (CodecChoice("jpeg-ls"), CodecChoice("htj2k"))
"""What the estimate is compared with: the same frames, coded one by one."""

RESAMPLES = 2000
"""Bootstrap resamples of series behind the confidence interval."""


@dataclass
class _Series:
    """A series found in the folder, and what its sample came to."""

    modality: str
    paths: list[Path] = field(default_factory=list)
    size: int = 0
    """Bytes of all its files."""
    sampled: int = 0
    """Bytes of the data sets that were compressed."""
    compressed: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@app.command()
def estimate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of DICOM files.")],
    config: ConfigOption = None,
    sample_mib: Annotated[
        int, typer.Option("--sample", help="MiB to compress for the estimate.", min=1)
    ] = 256,
    seed: Annotated[int, typer.Option(help="Which series are drawn.")] = 1,
) -> None:
    """Estimate what DIR would shrink to: compresses a sample of its series, changes nothing.

    The sample is drawn by series, each as likely as its share of the bytes. The interval is a bootstrap
    over the sampled series: how far another draw from the same archive may lie.
    """
    settings = load_config(config)
    logs.configure("error", settings.log.format, patient_data=False)
    if not folder.exists():
        raise fail(f"{folder}: no such folder", MISUSED)
    series = _scan(folder)
    if not series:
        raise fail(f"no DICOM files in {folder}")
    total = sum(s.size for s in series)
    sample = _draw(series, sample_mib << 20, seed)
    with tempfile.TemporaryDirectory(prefix="dcmpress-estimate-") as scratch:
        for one in counted(sample, "compress", len(sample)):
            _measure(one, sample_mib << 20, settings, Path(scratch))
    measured = [s for s in sample if s.compressed]
    if not measured:
        raise fail("nothing in the sample could be compressed")
    _report(series, measured, total)


def _scan(folder: Path) -> list[_Series]:
    found: dict[str, _Series] = {}
    for path in counted(files_below(folder), "look", None):
        try:
            with path.open("rb") as file:
                head = file.read(1 << 16)
            meta, offset = read_part10(head)
        except (OSError, StorageError):
            continue
        syntax = meta.transfer_syntax_uid if meta else guess_transfer_syntax(head[offset:]) or ""
        leading = read_leading(head[offset:], syntax, WANTED)
        uid = leading.attributes.get("SeriesInstanceUID") or str(path)
        one = found.setdefault(uid, _Series(leading.attributes.get("Modality", "")))
        one.paths.append(path)
        one.size += path.stat().st_size
    return list(found.values())


def _draw(series: list[_Series], budget: int, seed: int) -> list[_Series]:
    """Draw series without replacement, by size, until the budget is used (a large one counts in part)."""
    chooser = random.Random(seed)
    # Efraimidis and Spirakis 2006: the largest of u^(1/weight) are a weighted sample.
    order = sorted(series, key=lambda s: chooser.random() ** (1.0 / max(1, s.size)), reverse=True)
    per_series = max(budget // 20, 1 << 20)
    drawn: list[_Series] = []
    used = 0
    for one in order:
        if used >= budget and len(drawn) >= 3:
            break
        drawn.append(one)
        used += min(one.size, per_series)
    return drawn


def _measure(series: _Series, budget: int, settings: Config, scratch: Path) -> None:
    """Compress neighbouring instances of a series by the configured rule and by each peer."""
    limit = max(budget // 20, 1 << 20)
    spool_folder = scratch / "spool"
    spool = Spool(spool_folder)
    entries: list[SpoolEntry] = []
    size = 0
    attributes = {"Modality": series.modality}
    for path in series.paths:
        if entries and size >= limit:
            break
        data = path.read_bytes()
        meta, offset = read_part10(data)
        syntax = meta.transfer_syntax_uid if meta else guess_transfer_syntax(data[offset:]) or ""
        meta = meta or FileMeta("", "", syntax)
        attributes["SOPClassUID"], attributes["TransferSyntaxUID"] = meta.sop_class_uid, syntax
        writer = spool.begin(meta, Sender())
        writer.write(data[offset:])
        entries.append(writer.finish())
        size += len(data) - offset
    ours = _rule(pipeline_settings(settings).rules, attributes)
    try:
        for choice in (ours, *PEERS):
            name = choice.codec if choice is not ours else "dcmpress"
            staged = scratch / f"{name}.dcmb"
            job = CompressJob(entries, str(spool_folder), str(staged), choice)
            if name == "dcmpress" and not series.seconds:
                compress(job)  # once for the kernels: an estimate must not pay for compiling them
                staged.unlink()
            started = time.process_time()
            result = compress(job)
            series.seconds[name] = time.process_time() - started
            series.compressed[name] = result.size
            staged.unlink()
        series.sampled = size
    except (StorageError, OSError) as error:
        notes.print(f"a series of {len(entries)} files is left out: {error}", markup=False)
        series.compressed.clear()
    spool.close()
    shutil.rmtree(spool_folder)


def _rule(rules: tuple[CompressionRule, ...], attributes: dict[str, str]) -> CodecChoice:
    return next((rule.choice for rule in rules if rule.matches(attributes)), CodecChoice("zstd"))


def _report(series: list[_Series], sample: list[_Series], total: int) -> None:
    by_modality: dict[str, list[_Series]] = defaultdict(list)
    for one in sample:
        by_modality[one.modality or "none"].append(one)
    table = Table(box=None, pad_edge=False)
    for column in ("modality", "series", "sampled MB", "ratio", "JPEG-LS", "HTJ2K", "MB/s per core"):
        table.add_column(column, justify="left" if column == "modality" else "right")
    for modality, group in [*sorted(by_modality.items()), ("all", sample)]:
        raw = sum(s.sampled for s in group)
        seconds = sum(s.seconds["dcmpress"] for s in group)
        ratios = [
            f"{raw / sum(s.compressed[n] for s in group):.2f}" for n in ("dcmpress", "jpeg-ls", "htj2k")
        ]
        speed = f"{raw / 1e6 / seconds:.1f}" if seconds else "-"
        table.add_row(modality, str(len(group)), f"{raw / 1e6:.1f}", *ratios, speed)
    out.print(table)

    files = sum(len(s.paths) for s in series)
    raw = sum(s.sampled for s in sample)
    share = sum(s.compressed["dcmpress"] for s in sample) / raw
    interval = "no interval from a single series"
    if len(sample) > 1:
        low, high = _interval(sample)
        interval = f"95 % interval {1 / high:.2f} to {1 / low:.2f}"
    seconds = sum(s.seconds["dcmpress"] for s in sample) / raw * total
    out.print(f"{files} files in {len(series)} series, {total / 1e9:.2f} GB")
    out.print(f"would take {total * share / 1e9:.2f} GB: {1 / share:.2f} : 1 ({interval})")
    out.print(f"compressing them once takes {seconds / 3600:.2f} hours of one core, verification included")


def _interval(sample: list[_Series]) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % points of the share that is left, by bootstrap over series."""
    chooser = random.Random(0)
    shares = []
    for _ in range(RESAMPLES):
        drawn = chooser.choices(sample, k=len(sample))
        shares.append(sum(s.compressed["dcmpress"] for s in drawn) / sum(s.sampled for s in drawn))
    shares.sort()
    return shares[int(0.025 * RESAMPLES)], shares[int(0.975 * RESAMPLES)]
