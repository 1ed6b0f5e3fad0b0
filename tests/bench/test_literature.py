"""The literature's report: its tables, and its command line."""

import csv

import pytest
from bench import literature, literature_synthetic, literature_wavelets
from bench.literature_report import Table


def test_a_table_in_both_forms(tmp_path):
    table = Table("t", "Title", "Note.", ["name", "ratio", "share"], formats={"share": ".1f"}, shown=2)
    table.rows = [["a", 1.234, 0.5], ["b", float("inf"), float("nan")], ["c", 3.0, 1.0]]
    text = table.markdown()
    assert "| a | 1.23 | 0.5 |" in text
    assert "| b | exact |  |" in text
    assert "1 more rows are in `t.csv`" in text
    table.write_csv(tmp_path)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:] == [["a", "1.234", "0.5"], ["b", "inf", "nan"], ["c", "3.0", "1.0"]]


def test_the_papers_coefficient_count():
    assert literature_wavelets.coefficient_count("db2") == 266_539
    assert literature_wavelets.coefficient_count("haar") == 512 * 512


def test_the_synthetic_run_is_what_it_says():
    frames = literature_synthetic.fluoroscopy_run(3, 64)
    assert frames.shape == (3, 64, 64)
    assert not frames[:, 0, 0].any()
    assert (frames[0] != frames[1]).any()
    assert (literature_synthetic.fluoroscopy_run(3, 64) == frames).all()


@pytest.mark.parametrize("arguments", [["--systems", "none"], ["--corpus", "/no/such/folder"]])
def test_wrong_calls_exit_with_2(arguments, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        literature.main([*arguments, "-o", str(tmp_path)])
    assert stopped.value.code == 2
    assert not list(tmp_path.iterdir())
