"""`reconstruct`: images inside bytes, taken apart and given back to the byte."""

import random
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from dcmpress.codecs import reconstruct
from dcmpress.codecs.errors import CodecError, CorruptStreamError, TooLargeError
from dcmpress.codecs.jpeg_dct.image import take_apart
from dcmpress.codecs.jpeg_dct.stream import CoefficientWriter
from dcmpress.codecs.reconstruct import JPEG_DCT, JPEG_XL, Reconstruct, jpeg_xl_image
from dcmpress.codecs.reconstruct_directory import Image, Piece
from dcmpress.codecs.restorable import working_limit
from tests.codecs import checks
from tests.corpus_files import GOLDEN
from tests.fuzz.codecs import damaged, tried, with_checksum

GOLDEN_JPEGS = [GOLDEN / f"reconstruct-v{version}-jpeg.bin" for version in (1, 2)]


def scene(rows: int = 90, columns: int = 120, samples: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    waves = [120 + 90 * np.sin(x / (9 + k)) * np.cos(y / (7 + k)) for k in range(samples)]
    return np.clip(np.stack(waves, axis=-1) + rng.normal(0, 5, (rows, columns, samples)), 0, 255).astype(
        np.uint8
    )


def jpeg(pixels: NDArray[np.uint8], **options: Any) -> bytes:
    out = BytesIO()
    image = Pillow.fromarray(pixels.squeeze())
    image.save(out, "JPEG", **{"quality": 88, **options})
    return out.getvalue()


def as_frame(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(1, 1, -1)


RESTORABLE = {
    "grey": jpeg(scene(samples=1)),
    "colour 4:2:0": jpeg(scene()),
    "colour 4:4:4": jpeg(scene(), subsampling=0),
    "progressive": jpeg(scene(), progressive=True),
    "optimised tables": jpeg(scene(), optimize=True),
    "restart markers": jpeg(scene(), restart_marker_blocks=3),
    "comment": jpeg(scene(), comment=b"made for a test"),
    "a zero byte after the end": jpeg(scene()) + b"\0",
    "garbage after the end": jpeg(scene()) + b"\xff\xd8 not an image \x00\xff",
}


@pytest.mark.parametrize("name", RESTORABLE)
def test_a_jpeg_image_becomes_smaller_and_comes_back(name: str) -> None:
    frame = as_frame(RESTORABLE[name])
    codec = Reconstruct()
    stream = codec.encode(frame)
    assert len(stream) < 0.95 * frame.size
    checks.assert_same(codec.decode(stream, max_pixels=frame.size), frame)


def renamed(data: bytes, old: int, new: int) -> bytes:
    """Return a JPEG image with another kind of frame header."""
    return data.replace(bytes([0xFF, old]), bytes([0xFF, new]), 1)


OTHERS = {
    "arithmetic coding": renamed(jpeg(scene(samples=1)), 0xC0, 0xC9),
    "twelve bits": jpeg(scene(samples=1)).replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\x0c"),
    "cut short": jpeg(scene())[:2000],
    "nothing but a start": b"\xff\xd8",
    "no image": b"The quick brown fox",
    "one byte": b"\xff",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_come_back_stays_as_it_is(name: str) -> None:
    assert jpeg_xl_image(OTHERS[name]) is None
    frame = as_frame(OTHERS[name])
    checks.assert_same(Reconstruct().decode(Reconstruct().encode(frame)), frame)


def test_cmyk_stays_as_it_is() -> None:
    out = BytesIO()
    Pillow.fromarray(scene()).convert("CMYK").save(out, "JPEG")
    assert jpeg_xl_image(out.getvalue()) is None


def test_keeps_the_contract() -> None:
    checks.check_codec(Reconstruct())
    checks.check_parameters(Reconstruct(options={"effort": "fast"}))


def in_rows() -> tuple[NDArray[np.uint8], list[Image], list[Piece]]:
    """Two images in rows of 100 bytes: one in three pieces, one cut off at the end."""
    first, second = jpeg(scene(seed=1)), jpeg(scene(seed=2))
    parts = [b"head", first[:500], b"glue1", first[500:1300], b"g2", first[1300:], b"between", second]
    data = b"".join(parts)
    data = data[: len(data) // 100 * 100]
    starts = np.cumsum([0, *map(len, parts)])
    images = [jpeg_xl_image(first), jpeg_xl_image(second)]
    assert images[0] is not None
    assert images[1] is not None
    pieces = [
        Piece(int(starts[1]), 0, 0, 500),
        Piece(int(starts[3]), 0, 500, 800),
        Piece(int(starts[5]), 0, 1300, len(first) - 1300),
        Piece(int(starts[7]), 1, 0, len(data) - int(starts[7])),
    ]
    return np.frombuffer(data, np.uint8).reshape(-1, 1, 100), [images[0], images[1]], pieces


def test_images_in_pieces_and_cut_off() -> None:
    rows, images, pieces = in_rows()
    codec = Reconstruct()
    stream = codec.encode_images(rows, images, pieces)
    assert len(stream) < 0.95 * rows.size
    checks.assert_same(codec.decode(stream), rows)
    chooser = np.random.default_rng(2)
    for _ in range(20):
        select = chooser.integers(0, len(rows), chooser.integers(0, 7)).tolist()
        checks.assert_same(codec.decode(stream, select), rows[select])
    run = list(range(3, len(rows) - 2))
    checks.assert_same(codec.decode(stream, run), rows[run])


def test_an_image_whose_beginning_is_elsewhere() -> None:
    rows, images, pieces = in_rows()
    later = rows[20:]
    cut = [
        Piece(max(0, p.at - 2000), p.image, p.start + max(0, 2000 - p.at), p.length - max(0, 2000 - p.at))
        for p in pieces
        if p.at + p.length > 2000
    ]
    codec = Reconstruct()
    checks.assert_same(codec.decode(codec.encode_images(later, images, cut)), later)


def test_pieces_that_cannot_be_are_a_bad_call() -> None:
    rows, images, pieces = in_rows()
    for wrong in (pieces[::-1], [pieces[0], pieces[0]], [Piece(rows.size - 5, 0, 0, 10)]):
        with pytest.raises(ValueError, match=r"\w"):
            Reconstruct().encode_images(rows, images, wrong)


def with_directory(images: list[Image], pieces: list[Piece]) -> bytes:
    n = sum(image.method != JPEG_XL for image in images)
    samples = np.zeros((n, 4, 4), np.uint8) if n else None
    return Reconstruct().encode_images(np.zeros((1, 1, 64), np.uint8), images, pieces, samples)


def test_lies_in_a_directory_are_refused() -> None:
    good = jpeg_xl_image(jpeg(scene()))
    assert good is not None
    lies = {
        "no such method": Image(99, 64, b"\0"),
        "no recipe": Image(2, 64),
        "a recipe of no kind": Image(2, 64, b"\2"),
        "another size": Image(JPEG_XL, good.size - 1, stream=good.stream),
        "a larger size": Image(JPEG_XL, good.size + 1, stream=good.stream),
        "no JPEG XL": Image(JPEG_XL, 64, stream=b"\0\0\0\x0cJXL \r\n\x87\n"),
        "nothing": Image(JPEG_XL, 64),
    }
    for name, image in lies.items():
        stream = with_directory([image], [Piece(0, 0, 0, 64)])
        with pytest.raises(CorruptStreamError, match=r"\w"):
            print(name, Reconstruct().decode(stream))


def test_an_image_beyond_the_limit_is_not_made() -> None:
    with pytest.raises(ValueError, match="too much"):
        with_directory([Image(JPEG_XL, working_limit(64) + 1, stream=b"x")], [Piece(0, 0, 0, 64)])
    stream = with_directory([Image(JPEG_XL, working_limit(64), stream=b"x")], [Piece(0, 0, 0, 64)])
    with pytest.raises(CodecError):
        Reconstruct().decode(stream, max_pixels=64)
    with pytest.raises(TooLargeError):
        Reconstruct().decode(stream, max_pixels=63)


@pytest.mark.parametrize("of_coefficients", [False, True])
def test_images_beyond_the_limit_together_are_not_made(
    of_coefficients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers that claim 2040 x 2040 samples cost a liar next to nothing once Zstandard has seen them twice."""
    small = take_apart(jpeg(np.zeros((16, 16), np.uint8)), 4)
    assert small is not None
    at = small.recipe.index(b"\xff\xc0") + 5
    recipe = small.recipe[:at] + struct.pack(">HH", 2040, 2040) + small.recipe[at + 4 :]
    image = Image(JPEG_DCT, 70000, recipe) if of_coefficients else Image(JPEG_XL, 1 << 21, stream=b"x")
    n = 5

    class Liar(CoefficientWriter):
        def finish(self) -> bytes:
            return b"\1\5\0"  # one group of five images, of no bytes

    writer = Liar() if of_coefficients else None
    if writer is not None:
        writer.images = n
    pieces = [Piece(k, k, 0, 1) for k in range(n)]
    monkeypatch.setattr(reconstruct, "working_limit", lambda n_bytes: 1 << 40)
    data = Reconstruct().encode_images(
        np.zeros((1, 1, 64), np.uint8), [image] * n, pieces, coefficients=writer
    )
    monkeypatch.undo()
    assert len(data) < 1000
    with pytest.raises(TooLargeError):
        Reconstruct().decode(data)


def test_damage_raises_codec_errors_only() -> None:
    rows, images, pieces = in_rows()
    codec = Reconstruct()
    stream = codec.encode_images(rows, images, pieces)
    chooser = random.Random(4)
    for _ in range(150):
        outcome = tried(codec, damaged(stream, stream, chooser), None)
        assert outcome in ("decoded", "refused"), outcome


def test_a_directory_that_announces_too_much_is_refused_before_it_is_unpacked() -> None:
    stream = bytearray(Reconstruct().encode(np.zeros((1, 1, 64), np.uint8)))
    stream[24:25] = b"\xff\xff\xff\xff\x7f"
    with pytest.raises(CorruptStreamError, match="limit"):
        Reconstruct().decode(with_checksum(bytes(stream)))


@pytest.mark.parametrize("path", GOLDEN_JPEGS, ids=lambda path: path.stem)
def test_published_streams_of_jpeg(path: Path) -> None:
    checks.assert_same(Reconstruct().decode(path.read_bytes()), np.load(path.with_suffix(".npy")))
