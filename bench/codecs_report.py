"""Tables and the plot of `python -m bench.codecs`."""

import statistics
from pathlib import Path

Row = dict[str, float]
Results = dict[str, dict[str, Row]]
"""Series -> codec -> size, enc, dec (ratios to JPEG-LS), bits, ratio, peer."""

OURS = ("fast", "balanced", "dense")
LITERATURE = ("huffman", "fluoroscopy", "spiht")
FAMILIES = {"jpeg-xl": "tab:purple", "jpeg-": "tab:blue", "htj2k": "tab:blue", "zstd": "tab:brown"}
VIDEO_COLOUR = "tab:green"


def _cell(rows: list[Row]) -> str:
    if not rows:
        return "-"
    size, enc, dec = (statistics.median(row[key] for row in rows) for key in ("size", "enc", "dec"))
    return f"{size:.3f} ({enc:.2f} / {dec:.2f})"


def _rows(results: Results, name: str) -> list[Row]:
    return [by_codec[name] for by_codec in results.values() if name in by_codec]


def table(results: Results, names: list[str]) -> str:
    """Return a Markdown table: size (encode x / decode x) per series and codec, then the medians."""
    lines = ["| series | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for series, by_codec in results.items():
        cells = [_cell([by_codec[name]] if name in by_codec else []) for name in names]
        lines.append(f"| {series} | " + " | ".join(cells) + " |")
    medians = [_cell(_rows(results, name)) for name in names]
    lines.append("| **median** | " + " | ".join(medians) + " |")
    return "\n".join(lines)


MODALITIES = {
    "CT": ("ct-thin", "ct-thick"),
    "MR": ("mr-3d", "mr-enhanced", "fmri", "mr-cine"),
    "PET": ("pet",),
    "US": ("us-cine",),
    "XA, RF": ("xa-run", "xa-1024", "rf-1024"),
    "CR, DX, MG": ("cr-2140x1760", "mg-3062x2394", "dx-505x2021"),
}


def ratios(results: Results, names: list[str]) -> str:
    """Return a Markdown table: samples as stored / stream per modality, the median of its series."""
    lines = ["| modality | jpeg-ls | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for modality, series in MODALITIES.items():
        measured = [results[name] for name in series if name in results]
        if not measured:
            continue
        peers = [next(iter(by_codec.values()))["peer"] for by_codec in measured]
        cells = [f"{statistics.median(peers):.2f}"]
        for name in names:
            own = [by_codec[name]["ratio"] for by_codec in measured if name in by_codec]
            cells.append(f"{statistics.median(own):.2f}" if len(own) == len(measured) else "-")
        lines.append(f"| {modality} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(results: Results, names: list[str], file: Path) -> None:
    """Draw the medians: size against encoding and decoding speed, all relative to JPEG-LS.

    A codec that does not take every series is drawn hollow, relative to JPEG-LS on those that it takes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    for axis, key, title in zip(panels, ("enc", "dec"), ("encoding", "decoding"), strict=True):
        axis.axhline(1, color="0.8", linewidth=0.8, zorder=0)
        axis.axvline(1, color="0.8", linewidth=0.8, zorder=0)
        points = {"jpeg-ls": (1.0, 1.0, True)}
        for name in names:
            rows = _rows(results, name)
            if rows:
                speed, size = (statistics.median(row[k] for row in rows) for k in (key, "size"))
                points[name] = (speed, size, len(rows) == len(results))
        ours = [points[name] for name in OURS if name in points]
        axis.plot([p[0] for p in ours], [p[1] for p in ours], color="tab:red", linewidth=1, alpha=0.5)
        for name, (speed, size, everywhere) in points.items():
            colour = _colour(name)
            axis.plot(
                speed, size, "D" if name in OURS else "o", color=colour, mfc=colour if everywhere else "white"
            )
            axis.annotate(
                name,
                (speed, size),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
                color=colour,
                fontweight="bold" if name in OURS else "normal",
            )
        axis.set(xscale="log", xlabel=f"{title} speed / JPEG-LS (right is faster)")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.2, which="both")
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="size / JPEG-LS (lower is smaller)")
    figure.suptitle(f"Lossless size against speed: median of {len(results)} series, one thread", fontsize=11)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _colour(name: str) -> str:
    if name in OURS:
        return "tab:red"
    if name in LITERATURE:
        return "0.45"
    return next((colour for start, colour in FAMILIES.items() if name.startswith(start)), VIDEO_COLOUR)
