"""What arrives compressed, and how much smaller it gets; every data set is decoded and compared.

    python -m bench.received [corpus|made ...] [--effort balanced] [--only .50]

`corpus`: the encapsulated files of the corpus, by transfer syntax. `made`: native series of the corpus, compressed
first by DCMTK's and GDCM's programs, and by OpenJPEG, OpenJPH and libjxl as the node sends them. Sizes are of whole
blobs, over those of the data sets as received. "today" is Zstandard, what is kept of a data set whose images nothing
can restore. "pixel-exact" is by a rule that says so; that blob, too, is decoded and compared with what it says it is.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.corpus_files import data_set, part10_files, series_files

from dcmpress.storage.compress import CodecChoice, CompressJob, compress
from dcmpress.storage.elements import NATIVE_SYNTAXES
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta, part10_header
from dcmpress.storage.spool import Sender, Spool
from dcmpress.storage.transcode import convert

JPEG = "1.2.840.10008.1.2.4."

MADE = (
    ("CT-LIDC0314-thin", 20),
    ("MR-GE-T1-3D", 40),
    ("MR-GE-fMRI", 100),
    ("US-EPIQ-cine", 1),
    ("CR-DX-MG", 3),
)
"""Group of the corpus, files taken."""

PROGRAMS = {
    "dcmcjpeg .50": ("dcmcjpeg", "+eb"),
    "dcmcjpeg .57": ("dcmcjpeg", "+el", "+sv", "4"),
    "dcmcjpeg .70": ("dcmcjpeg", "+e1"),
    "gdcmconv .70": ("gdcmconv", "--jpeg"),
    "dcmcjpls .80": ("dcmcjpls",),
    "gdcmconv .80": ("gdcmconv", "--jpegls"),
    "dcmcrle": ("dcmcrle",),
    "gdcmconv rle": ("gdcmconv", "--rle"),
    "gdcmconv .90": ("gdcmconv", "--j2k"),
}


OURS = {"openjpeg .90": JPEG + "90", "openjph .201": JPEG + "201", "libjxl .110": JPEG + "110"}
"""Transfer syntax that the node sends, by whose encoder."""


@dataclass
class Kept:
    """What became of one set of files."""

    instances: int = 0
    restored: int = 0
    """Instances that lie in a segment of the codec `reconstruct`."""
    received: int = 0
    today: int = 0
    now: int = 0
    as_samples: int = 0
    """Instances that a rule with `pixel_exact` keeps as samples."""
    pixel_exact: int = 0
    alone: float = 0.0
    together: float = 0.0
    """CPU time to give each instance back, one by one, and as a series; kernels compiled."""


def keep(paths: Iterable[Path], effort: str) -> Kept:
    """Compress files as one group, both ways, and read them back.

    Raises
    ------
    ValueError
        If what comes back is not what went in.
    """
    kept = Kept()
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool", durable=False)
        entries = []
        for path in paths:
            meta, data = data_set(path)
            writer = spool.begin(meta, Sender())
            writer.write(data)
            entries.append(writer.finish())
            kept.received += len(data)
        kept.instances = len(entries)
        choices = {
            "zstd": CodecChoice("zstd"),
            "pixel-exact": CodecChoice("interframe", {"effort": effort}, pixel_exact=True),
            "interframe": CodecChoice("interframe", {"effort": effort}),
        }
        for name, choice in choices.items():
            staged = Path(folder) / name
            job = CompressJob(entries, str(spool.folder), str(staged), choice, segment_bytes=16 << 20)
            result = compress(job)
            if result.damaged or result.fallbacks:
                print("   ", result.damaged or result.fallbacks)
            if name == "zstd":
                kept.today = result.size
            elif choice.pixel_exact:
                kept.pixel_exact, kept.as_samples = result.size, len(result.forms)
                with InstanceReader(staged) as reader:
                    for number in range(kept.instances):
                        reader.read(number)
        kept.now = result.size
        with InstanceReader(staged) as reader:
            index = reader.blob.index
            of = {i for s in index.segments if s.codec == "reconstruct" for i, _ in s.frames}
            kept.restored = len(of)
            reader.read(0)
            reader.forget_segments()
            started = time.process_time()
            for number in range(kept.instances):
                reader.read(number)
                reader.forget_segments()
            kept.alone = time.process_time() - started
            started = time.process_time()
            for first in range(0, kept.instances, 20):
                numbers = range(first, min(first + 20, kept.instances))
                reader.load_for(numbers)
                for number in numbers:
                    reader.read(number)
            kept.together = time.process_time() - started
        spool.close()
    return kept


def of_corpus() -> Iterator[tuple[str, list[Path]]]:
    """Yield (transfer syntax, files)."""
    by_syntax: dict[str, list[Path]] = {}
    for path in part10_files():
        syntax = data_set(path)[0].transfer_syntax_uid
        if syntax not in NATIVE_SYNTAXES:
            by_syntax.setdefault(syntax, []).append(path)
    yield from sorted(by_syntax.items())


def made(folder: Path, only: str) -> Iterator[tuple[str, list[Path]]]:
    """Yield (series and program, files that the program made); those that it cannot make are left out."""
    for group, most in MADE:
        yield f"{group}, native", series_files(group)[:most]
        for name, syntax in OURS.items():
            if only in f"{group}, {name}":
                yield f"{group}, {name}", _sent(folder, series_files(group)[:most], syntax)
        for name, program in PROGRAMS.items():
            if only not in f"{group}, {name}":
                continue
            files = []
            for k, path in enumerate(series_files(group)[:most]):
                target = folder / f"{k}.dcm"
                target.unlink(missing_ok=True)
                done = subprocess.run([*program, path, target], capture_output=True, check=False)
                if (
                    done.returncode == 0
                    and target.exists()
                    and data_set(target)[0].transfer_syntax_uid not in NATIVE_SYNTAXES
                ):
                    files.append(target)
            if files:
                yield f"{group}, {name}", files


def _sent(folder: Path, paths: Iterable[Path], syntax: str) -> list[Path]:
    """Write native files as the node sends them in a compressed transfer syntax."""
    files = []
    for k, path in enumerate(paths):
        meta, data = data_set(path)
        target = folder / f"sent-{k}.dcm"
        converted = convert(data, meta.transfer_syntax_uid, syntax)
        header = part10_header(FileMeta(meta.sop_class_uid, meta.sop_instance_uid, syntax))
        target.write_bytes(header + b"".join(converted.pieces()))
        files.append(target)
    return files


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["corpus", "made"])
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--only", default="", help="part of a line's name")
    options = parser.parse_args()
    print(
        "| what | instances | made smaller | received | today | now | now / received "
        "| CPU ms back, alone | in a series | as samples | pixel-exact | pixel-exact / received |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what in options.what:
            for name, paths in of_corpus() if what == "corpus" else made(Path(folder), options.only):
                if options.only not in name:
                    continue
                kept = keep(paths, options.effort)
                print(
                    f"| {name} | {kept.instances} | {kept.restored} | {kept.received} | {kept.today} | {kept.now} "
                    f"| {kept.now / kept.received:.3f} | {1e3 * kept.alone / kept.instances:.2f} "
                    f"| {1e3 * kept.together / kept.instances:.2f} | {kept.as_samples} | {kept.pixel_exact} "
                    f"| {kept.pixel_exact / kept.received:.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
