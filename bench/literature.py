"""Every system of the literature on the corpus, beside the standard codecs, as a report.

    python -m bench.literature [--corpus DIR] [-o report/] [--systems NAME,...]

Writes `report.md`, a CSV file for each table, and three plots. Every lossless stream is decoded and compared.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from tests import corpus

from bench import (
    literature_fluoroscopy,
    literature_huffman,
    literature_modalities,
    literature_spiht,
    literature_wavelets,
)
from bench.literature_plots import bars_by_modality, rate_distortion, ratio_by_correlation
from bench.literature_report import Table

SYSTEMS: dict[str, tuple[str, Callable[[Path], list[Table]]]] = {
    "fluoroscopy": ("1. Fluoroscopy by correlation groups", literature_fluoroscopy.tables),
    "huffman": ("2. Huffman for whole files", literature_huffman.tables),
    "spiht": ("3. SPIHT with Huffman", literature_spiht.tables),
    "wavelets": ("4 and 5. Thresholded wavelets, swarm, hidden text", literature_wavelets.tables),
    "modalities": ("All lossless codecs by modality", literature_modalities.tables),
}
PLOTS: dict[str, tuple[str, Callable[[Table, Path], None]]] = {
    "fluoroscopy_pairs": ("ratio-by-correlation.png", ratio_by_correlation),
    "spiht_rate_distortion": ("rate-distortion.png", rate_distortion),
    "modality_ratios": ("ratio-by-modality.png", bars_by_modality),
}


def write_report(folder: Path, output: Path, names: list[str]) -> Path:
    """Run the systems `names` on the corpus in `folder`; return the path of the report."""
    output.mkdir(parents=True, exist_ok=True)
    parts = [
        "# The literature's codecs, measured",
        "",
        f"`python -m bench.literature`; {platform.processor() or platform.machine()}, Python "
        f"{platform.python_version()}. Times are CPU times of one thread; only ratios within one run compare.",
        "",
    ]
    for name in names:
        title, make_tables = SYSTEMS[name]
        print(f"{title} ...", file=sys.stderr, flush=True)
        parts += [f"## {title}", ""]
        for table in make_tables(folder):
            table.write_csv(output)
            parts.append(table.markdown())
            if table.name in PLOTS:
                file, draw = PLOTS[table.name]
                draw(table, output / file)
                parts += [f"![{table.title}]({file})", ""]
    report = output / "report.md"
    report.write_text("\n".join(parts))
    return report


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.literature", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=corpus.FOLDER)
    parser.add_argument("-o", "--output", type=Path, default=Path("report"))
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="which of: " + ", ".join(SYSTEMS))
    options = parser.parse_args(arguments)
    names = options.systems.split(",")
    unknown = sorted(set(names) - set(SYSTEMS))
    if unknown:
        parser.error(f"no system {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    if not (options.corpus / "manifest.tsv").is_file():
        parser.error(f"no corpus in {options.corpus} (manifest.tsv is missing)")
    print(write_report(options.corpus, options.output, names))


if __name__ == "__main__":
    main()
