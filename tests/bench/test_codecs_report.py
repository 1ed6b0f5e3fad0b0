"""Tables of the codec benchmark, where a codec does not take every series."""

from pathlib import Path

from bench import codecs_report

RESULTS = {
    "ct-thin": {
        "fast": {"size": 0.9, "enc": 1.2, "dec": 2.0, "bits": 4.0, "ratio": 4.0, "peer": 3.6},
        "x265": {"size": 1.1, "enc": 0.1, "dec": 0.4, "bits": 5.0, "ratio": 3.2, "peer": 3.6},
    },
    "ct-thick": {"fast": {"size": 0.8, "enc": 1.0, "dec": 1.0, "bits": 4.0, "ratio": 3.0, "peer": 2.4}},
}


def test_table_has_medians_over_what_was_measured() -> None:
    lines = codecs_report.table(RESULTS, ["fast", "x265"]).splitlines()
    assert lines[3] == "| ct-thick | 0.800 (1.00 / 1.00) | - |"
    assert lines[4] == "| **median** | 0.850 (1.10 / 1.50) | 1.100 (0.10 / 0.40) |"


def test_ratio_of_a_modality_needs_all_its_series() -> None:
    assert codecs_report.ratios(RESULTS, ["fast", "x265"]).splitlines()[2:] == ["| CT | 3.00 | 3.50 | - |"]


def test_plot_is_written(tmp_path: Path) -> None:
    codecs_report.plot(RESULTS, ["fast", "x265"], tmp_path / "new" / "plot.svg")
    assert "x265" in (tmp_path / "new" / "plot.svg").read_text()
