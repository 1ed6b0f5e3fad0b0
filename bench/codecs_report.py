"""Tables and the plot of `python -m bench.codecs`."""

import statistics
from pathlib import Path
from typing import Any

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
    """Return a Markdown table: size (encode x / decode x) per series and codec, then the medians.

    A median over series and single images is neither's: there are two more, where both were measured.
    """
    lines = ["| series | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for series, by_codec in results.items():
        cells = [_cell([by_codec[name]] if name in by_codec else []) for name in names]
        lines.append(f"| {series} | " + " | ".join(cells) + " |")
    singles = {series: row for series, row in results.items() if series in SINGLES}
    others = {series: row for series, row in results.items() if series not in SINGLES}
    parts = {"**median**": results}
    if singles and others:
        parts = {"median of series": others, "median of single images": singles, **parts}
    for label, part in parts.items():
        medians = [_cell(_rows(part, name)) for name in names]
        lines.append(f"| {label} | " + " | ".join(medians) + " |")
    return "\n".join(lines)


SINGLES = ("cr-2140x1760", "mg-3062x2394", "dx-505x2021", "xa-1024", "rf-1024")
"""Series of one image."""

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


HIGHEST = 1.22
"""Larger sizes are drawn as arrows at the upper edge, with their number."""
PLACES = ((6, 4), (6, -11), (-6, 4), (-6, -11), (0, 8), (0, -15), (6, 12), (6, -20), (-6, 12), (-6, -20))
"""Where a label may stand, in points from its mark, best first."""


def plot(results: Results, names: list[str], file: Path) -> None:
    """Draw the medians: size against encoding and decoding speed, all relative to JPEG-LS.

    A codec that does not take every series is drawn hollow, relative to JPEG-LS on those that it takes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    panels[0].set(ylabel="size / JPEG-LS (lower is smaller)")
    figure.suptitle(f"Lossless size against speed: median of {len(results)} series, one thread", fontsize=11)
    for axis, key, title in zip(panels, ("enc", "dec"), ("encoding", "decoding"), strict=True):
        points = {"jpeg-ls": (1.0, 1.0, True)}
        for name in names:
            rows = _rows(results, name)
            if rows:
                speed, size = (statistics.median(row[k] for row in rows) for k in (key, "size"))
                points[name] = (speed, size, len(rows) == len(results))
        axis.axhline(1, color="0.8", linewidth=0.8, zorder=0)
        axis.axvline(1, color="0.8", linewidth=0.8, zorder=0)
        ours = [points[name] for name in OURS if name in points]
        axis.plot([p[0] for p in ours], [p[1] for p in ours], color="tab:red", linewidth=1, alpha=0.5)
        for name, (speed, size, everywhere) in points.items():
            colour = _colour(name)
            mark = "^" if size > HIGHEST else "D" if name in OURS else "o"
            face = colour if everywhere else "white"
            axis.plot(speed, min(size, HIGHEST), mark, color=colour, mfc=face, markersize=6)
        axis.set(xscale="log", xlabel=f"{title} speed / JPEG-LS (right is faster)")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.2, which="both")
        axis.margins(x=0.14, y=0.08)
        axis.spines[["top", "right"]].set_visible(False)
        _label(figure, axis, points)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _label(figure: Any, axis: Any, points: dict[str, tuple[float, float, bool]]) -> None:
    """Write each name where it covers no mark and no other name, if there is such a place."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    taken = []
    for speed, size, _ in points.values():
        x, y = axis.transData.transform((speed, min(size, HIGHEST)))
        taken.append(Bbox.from_extents(x - 5, y - 5, x + 5, y + 5))
    for name, (speed, size, _) in points.items():
        text = axis.annotate(
            f"{name} {size:.2f}" if size > HIGHEST else name,
            (speed, min(size, HIGHEST)),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            color=_colour(name),
            fontweight="bold" if name in OURS else "normal",
        )
        for dx, dy in (*PLACES, PLACES[0]):
            text.set_position((dx, dy))
            text.set_horizontalalignment("left" if dx > 0 else "right" if dx else "center")
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def _colour(name: str) -> str:
    if name in OURS:
        return "tab:red"
    if name in LITERATURE:
        return "0.45"
    return next((colour for start, colour in FAMILIES.items() if name.startswith(start)), VIDEO_COLOUR)
