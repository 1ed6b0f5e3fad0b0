"""Plots of the literature's report, from its tables."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from bench.literature_report import Table


def rate_distortion(table: Table, file: Path) -> None:
    """Draw PSNR against bits per pixel for each image."""
    names = list(dict.fromkeys(row[0] for row in table.rows))
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = [row for row in table.rows if row[0] == name]
        for label, column, rate in (("5/3 prefix", 2, 1), ("bior4.4", 3, 1), ("JPEG 2000", 4, 8)):
            points = [(row[rate], row[column]) for row in rows if row[column] < 200]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        axis.set(title=name, xlabel="bits per pixel", ylabel="PSNR (dB)")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    _save(figure, file)


def ratio_by_correlation(table: Table, file: Path) -> None:
    """Draw the ratios of Table I against one less the correlation coefficient, one panel for each run."""
    names = list(dict.fromkeys(row[0] for row in table.rows))
    n_columns = (len(names) + 1) // 2
    figure, axes = plt.subplots(2, n_columns, figsize=(3.4 * n_columns, 6), squeeze=False, sharex=True)
    for axis, name in zip(axes.flat, names, strict=False):
        rows = [row for row in table.rows if row[0] == name and row[3] < 1]
        for column, label in enumerate(table.columns[4:], 4):
            axis.plot([1 - r[3] for r in rows], [r[column] for r in rows], ".", label=label)
        axis.set_title(name, fontsize=9)
        axis.set(xlabel="1 - CC", xscale="log", ylabel="ratio", ylim=(0, None))
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    handles, labels = axes[0][0].get_legend_handles_labels()
    axes.flat[-1].legend(handles, labels, loc="center" if len(names) % 2 else "best")
    _save(figure, file)


def bars_by_modality(table: Table, file: Path) -> None:
    """Draw the lossless ratio of each codec for each series."""
    codecs = list(table.columns[3:])
    rows = [row for row in table.rows if row[0] != "median"]
    figure, axis = plt.subplots(figsize=(1.1 * len(rows) + 2, 4))
    width = 0.85 / len(codecs)
    for k, codec in enumerate(codecs):
        axis.bar([i + k * width for i in range(len(rows))], [r[3 + k] for r in rows], width, label=codec)
    axis.set_xticks([i + 0.4 for i in range(len(rows))], [row[0] for row in rows], rotation=30)
    axis.set(ylabel="ratio", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.margins(x=0.01)
    axis.legend(ncols=3, fontsize=7)
    axis.grid(axis="y", alpha=0.3)
    _save(figure, file)


def _save(figure: plt.Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)
