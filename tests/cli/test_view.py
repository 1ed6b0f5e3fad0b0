"""`dcmpress view`: pictures that DCMTK draws alike."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.corpus_files import data_set, series_files
from tests.nodes import Node, dcmtk


def view(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dcmpress", "view", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def drawn_by_dcmtk(path: Path, folder: Path, *options: str) -> np.ndarray:
    dcmtk("dcmj2pnm", "--write-bmp", *options, path, folder / "peer.bmp")
    return np.asarray(Image.open(folder / "peer.bmp").convert("L"), np.int64)


def test_a_window_is_drawn_as_dcmtk_draws_it(tmp_path: Path) -> None:
    path = series_files("CT-LIDC0314-thin")[0]
    done = view(path, "--window", "40,400", "-o", tmp_path / "ours.png")
    assert done.returncode == 0, done.stderr
    assert "512" in done.stdout
    ours = np.asarray(Image.open(tmp_path / "ours.png"), np.int64)
    peer = drawn_by_dcmtk(path, tmp_path, "+Ww", "40", "400")
    assert ours.shape == peer.shape
    assert np.abs(ours - peer).max() <= 1


def test_colour_and_size(tmp_path: Path) -> None:
    path = next(p for p in series_files("US-RGB-singles"))
    done = view(path, "--size", "320x200", "-o", tmp_path / "ours.png")
    assert done.returncode == 0, done.stderr
    picture = Image.open(tmp_path / "ours.png")
    assert (picture.size, picture.mode) == ((320, 200), "RGB")


def test_a_frame_of_a_kept_instance(tmp_path: Path) -> None:
    path = series_files("MR-heart-cine-MF")[0]
    node = Node(tmp_path / "node")
    node.command("import", path)
    uid = data_set(path)[0].sop_instance_uid
    for n in (0, 15):
        node.command("view", uid, "--frame", str(n), "-o", tmp_path / f"{n}.png")
    first, last = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in (0, 15))
    assert first.shape == last.shape
    assert not np.array_equal(first, last)
    assert node.command("view", uid, "--frame", "16", "-o", tmp_path / "x.png", check=False).returncode == 1
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--window", "wide"),
        ("--window", "nan,9"),
        ("--window", "40,0"),
        ("--size", "0x9"),
        ("--size", "nanxnan"),
    ],
)
def test_wrong_calls(wrong: tuple[str, str], tmp_path: Path) -> None:
    path = series_files("CT-LIDC0314-thin")[0]
    assert view(path, *wrong, "-o", tmp_path / "x.png").returncode == 2


def test_what_is_not_kept_is_no_picture(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    node.command("import", series_files("MR-heart-cine-MF")[0])
    done = node.command("view", "1.2.3.4", "-o", tmp_path / "x.png", check=False)
    assert done.returncode == 1
    assert "no instance" in done.stderr
