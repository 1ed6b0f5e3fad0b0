"""Losslessly compressed images, taken apart into samples and a recipe: the same bytes come back, or nobody tries."""

import random
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmpress.codecs import warm
from dcmpress.codecs.errors import CodecError, CorruptStreamError
from dcmpress.codecs.jpeg_ls import encode_image
from dcmpress.codecs.reconstruct import Reconstruct
from dcmpress.codecs.reconstruct_directory import Image, Piece
from dcmpress.codecs.restorable import FORMATS, put_together, take_apart
from dcmpress.codecs.rle_image import HABITS
from tests.codecs import checks
from tests.corpus_files import GOLDEN
from tests.fuzz.codecs import damaged, tried

Array = NDArray[Any]


def field(shape: tuple[int, ...], dtype: str, bits: int = 12, seed: int = 0) -> Array:
    """Return a smooth field with noise and a flat border; of `bits` bits, from below zero if signed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    top = 1 << bits
    values = top * (0.5 + 0.3 * np.sin(x / 11) * np.cos(y / 7)) + rng.normal(0, top / 200, shape[:2])
    values[:, : shape[1] // 5] = 0
    if dtype.startswith("i"):
        values -= top / 2
    stacked = (
        values
        if len(shape) == 2
        else np.stack([values * (k + 1) / shape[2] for k in range(shape[2])], axis=-1)
    )
    return stacked.astype(dtype)


# Lossless JPEG: a small encoder, straight from ITU-T T.81 annexes C and H, without any speed.


def bits_of(difference: int) -> tuple[int, str]:
    """Return (number of bits, these bits) of a difference (T.81 table H.2)."""
    if difference == 32768:
        return 16, ""
    size = abs(difference).bit_length()
    value = difference if difference >= 0 else difference + (1 << size) - 1
    return size, f"{value:0{size}b}" if size else ""


def neighbours(x: list[list[int]], row: int, column: int, top: int, predictor: int, first: int) -> int:
    if row == top and column == 0:
        return first
    if row == top:
        return x[row][column - 1]
    if column == 0:
        return x[row - 1][column]
    a, b, c = x[row][column - 1], x[row - 1][column], x[row - 1][column - 1]
    return [0, a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1][predictor]


def lossless_jpeg(
    frame: Array,
    precision: int,
    predictor: int = 1,
    restart_rows: int = 0,
    fill: str = "1",
    after: bytes = b"",
) -> bytes:
    """Encode samples; the code is one of 17 words of 5 bits, except for the first, of 4."""
    rows, columns = frame.shape[:2]
    n = 1 if frame.ndim == 2 else frame.shape[2]
    planes = [
        (frame.reshape(rows, columns, n)[..., k].astype(np.int64) & ((1 << precision) - 1)).tolist()
        for k in range(n)
    ]
    words = {0: "0000", **{size: f"{size + 1:05b}" for size in range(1, 17)}}
    table = bytes([0, 0, 0, 1, 16] + [0] * 11) + bytes(range(17))
    out = bytearray(b"\xff\xd8")

    def segment(marker: int, body: bytes) -> None:
        out.extend(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)

    segment(0xFE, b"made for a test")
    segment(
        0xC3,
        struct.pack(">BHHB", precision, rows, columns, n)
        + b"".join(bytes([k + 1, 0x11, 0]) for k in range(n)),
    )
    segment(0xC4, b"\x00" + table)
    if restart_rows:
        segment(0xDD, struct.pack(">H", restart_rows * columns))
    segment(0xDA, bytes([n]) + b"".join(bytes([k + 1, 0]) for k in range(n)) + bytes([predictor, 0, 0]))
    text = ""

    def flush() -> None:
        nonlocal text
        text += fill * (-len(text) % 8)
        for at in range(0, len(text), 8):
            byte = int(text[at : at + 8], 2)
            out.extend([byte, 0] if byte == 255 else [byte])
        text = ""

    top = 0
    for row in range(rows):
        if restart_rows and row and row % restart_rows == 0:
            flush()
            out.extend([0xFF, 0xD0 + (row // restart_rows - 1) % 8])
            top = row
        for column in range(columns):
            for plane in planes:
                difference = plane[row][column] - neighbours(
                    plane, row, column, top, predictor, 1 << (precision - 1)
                )
                difference = (difference + 32767) % 65536 - 32767
                size, more = bits_of(difference)
                text += words[size] + more
    flush()
    return bytes(out) + b"\xff\xd9" + after


JPEGS: dict[str, tuple[bytes, Array]] = {}
for _predictor in range(1, 8):
    _frame = field((31, 43), "uint16", 12, _predictor)
    JPEGS[f"predictor {_predictor}"] = lossless_jpeg(_frame, 12, _predictor), _frame
for _name, _frame, _precision, _options in (
    ("8 bits", field((20, 33), "uint8", 8), 8, {}),
    ("16 bits", field((20, 33), "uint16", 16), 16, {}),
    ("signed, 16 bits", field((20, 33), "int16", 12), 16, {}),
    ("signed, 12 bits", field((20, 33), "int16", 12), 12, {"predictor": 4}),
    ("extremes", np.array([[0, 32768, 0, 65535], [65535, 0, 32768, 1]], np.uint16), 16, {}),
    ("colour", field((14, 21, 3), "uint8", 8), 8, {"predictor": 7}),
    ("restarts", field((29, 17), "uint16", 12), 12, {"restart_rows": 2, "predictor": 5}),
    ("restarts in every row", field((29, 17, 3), "uint8", 8), 8, {"restart_rows": 1}),
    ("filled with zeros", field((29, 17), "uint16", 12), 12, {"fill": "0", "restart_rows": 3}),
    ("padded", field((29, 17), "uint16", 12), 12, {"after": b"\0"}),
    ("garbage behind it", field((29, 17), "uint16", 12), 12, {"after": b"\0\xff\xd8 more"}),
    ("one sample", np.array([[7]], np.uint8), 8, {}),
):
    JPEGS[_name] = lossless_jpeg(_frame, _precision, **_options), _frame


@pytest.mark.parametrize("name", JPEGS)
def test_lossless_jpeg(name: str) -> None:
    data, frame = JPEGS[name]
    taken = take_apart("jpeg-lossless", data, frame.shape, frame.dtype)
    assert taken is not None
    image, found = taken
    checks.assert_same(found, frame)
    assert put_together(image.method, found, image.recipe) == data
    assert len(image.recipe) < 160


def test_lossless_jpeg_of_a_library() -> None:
    for frame in (field((50, 60), "uint16", 12), field((50, 60), "uint8", 8)):
        data = bytes(imagecodecs.ljpeg_encode(frame, bitspersample=12 if frame.itemsize == 2 else 8))
        taken = take_apart("jpeg-lossless", data, frame.shape, frame.dtype)
        assert taken is not None
        assert put_together(taken[0].method, taken[1], taken[0].recipe) == data


def test_an_encoder_that_ends_in_its_own_way() -> None:
    data, frame = JPEGS["predictor 1"]
    odd = data.replace(b"\xff\xd9", b"\x00\x12\xff\xd9")
    taken = take_apart("jpeg-lossless", odd, frame.shape, frame.dtype)
    assert taken is not None
    assert put_together(taken[0].method, taken[1], taken[0].recipe) == odd


OTHER_JPEGS = {
    "another shape": (JPEGS["predictor 1"][0], (43, 31), "uint16"),
    "too few bits": (JPEGS["predictor 1"][0], (31, 43), "uint8"),
    "samples of 32 bits": (JPEGS["predictor 1"][0], (31, 43), "uint32"),
    "a sample too many": (JPEGS["predictor 1"][0], (31, 43, 3), "uint16"),
    "with DCT": (JPEGS["predictor 1"][0].replace(b"\xff\xc3", b"\xff\xc0"), (31, 43), "uint16"),
    "arithmetic coding": (JPEGS["predictor 1"][0].replace(b"\xff\xc3", b"\xff\xcb"), (31, 43), "uint16"),
    "cut short": (JPEGS["predictor 1"][0][:900], (31, 43), "uint16"),
    "headers cut short": (JPEGS["predictor 1"][0][:50], (31, 43), "uint16"),
    "no image": (b"no image", (31, 43), "uint16"),
    "nothing": (b"", (31, 43), "uint16"),
}


@pytest.mark.parametrize("name", OTHER_JPEGS)
def test_what_is_no_lossless_jpeg_of_this_form_is_left(name: str) -> None:
    data, shape, dtype = OTHER_JPEGS[name]
    assert take_apart("jpeg-lossless", data, shape, np.dtype(dtype)) is None


# JPEG-LS: streams of CharLS.

LS_FRAMES = {
    "8 bits": field((40, 70), "uint8", 8),
    "12 bits": field((40, 70), "uint16", 12),
    "16 bits": field((40, 70), "uint16", 16),
    "7 bits": field((40, 70), "uint8", 7),
    "noise": np.random.default_rng(1).integers(0, 1 << 16, (30, 33)).astype(np.uint16),
    "extremes": np.random.default_rng(2).choice([0, 65535, 32768], (30, 33)).astype(np.uint16),
    "flat": np.full((33, 600), 9, np.uint8),
    "long runs": np.repeat(np.random.default_rng(3).integers(0, 4, (20, 9)), 77, axis=1).astype(np.uint8),
    "one sample": np.array([[7]], np.uint8),
    "one row": field((1, 90), "uint16", 12),
    "one column": field((90, 1), "uint16", 12),
}


def check_jpeg_ls(data: bytes, frame: Array) -> Image:
    taken = take_apart("jpeg-ls", data, frame.shape, frame.dtype)
    assert taken is not None
    checks.assert_same(taken[1], frame)
    assert put_together(taken[0].method, taken[1], taken[0].recipe) == data
    assert len(taken[0].recipe) < 160
    return taken[0]


@pytest.mark.parametrize("name", LS_FRAMES)
def test_jpeg_ls(name: str) -> None:
    check_jpeg_ls(bytes(imagecodecs.jpegls_encode(LS_FRAMES[name])), LS_FRAMES[name])


def test_jpeg_ls_of_signed_samples() -> None:
    frame = field((40, 70), "int16", 12)
    check_jpeg_ls(bytes(imagecodecs.jpegls_encode(frame.view(np.uint16))), frame)


@pytest.mark.parametrize("interleave", [0, 1, 2])
def test_jpeg_ls_in_colour(interleave: int) -> None:
    for frame in (field((24, 31, 3), "uint8", 8), np.repeat(field((24, 31, 3), "uint8", 5), 9, axis=1)):
        source = np.ascontiguousarray(frame.transpose(2, 0, 1)) if interleave == 0 else frame
        check_jpeg_ls(bytes(jpeg_ls.encode_array(source, interleave_mode=interleave)), frame)


@pytest.mark.parametrize("name", LS_FRAMES)
def test_jpeg_ls_of_our_own_is_what_charls_writes(name: str) -> None:
    frame = LS_FRAMES[name]
    data = encode_image(frame)
    theirs = bytes(imagecodecs.jpegls_encode(frame, out=4 * frame.nbytes + 1024))
    from_frame_header = theirs[theirs.index(b"\xff\xf7") :]  # before it they have a SPIFF header
    assert data == b"\xff\xd8" + from_frame_header
    checks.assert_same(np.asarray(imagecodecs.jpegls_decode(data)).reshape(frame.shape), frame)
    check_jpeg_ls(data, frame)


def with_presets(data: bytes, *presets: int) -> bytes:
    """Return a JPEG-LS image with parameters of its own."""
    at = data.index(b"\xff\xda")
    return data[:at] + struct.pack(">BBHB5H", 0xFF, 0xF8, 13, 1, *presets) + data[at:]


def test_jpeg_ls_that_spells_its_parameters_out() -> None:
    for name, presets in (("8 bits", (255, 3, 7, 21, 64)), ("16 bits", (65535, 18, 67, 276, 64))):
        check_jpeg_ls(
            with_presets(bytes(imagecodecs.jpegls_encode(LS_FRAMES[name])), *presets), LS_FRAMES[name]
        )


def test_jpeg_ls_with_parameters_of_its_own() -> None:
    """What we write with other thresholds is what CharLS reads."""
    frame = LS_FRAMES["8 bits"] >> 1
    image = check_jpeg_ls(bytes(imagecodecs.jpegls_encode(frame)), frame)
    reader = image.recipe
    at = reader.index(b"\xff\xda")
    segment = struct.pack(">BBHB5H", 0xFF, 0xF8, 13, 1, 255, 5, 11, 40, 31)
    # The recipe: no correction, one scan, its size and that of the headers, which grow.
    head = reader.index(b"\xff\xd8")
    size, before = reader[2:head], bytearray(reader[head:at] + segment + reader[at:])
    room = bytes([0xFF, 0xFF, 0x03])
    data = put_together(4, frame, reader[:2] + room + bytes([size[-1] + len(segment)]) + bytes(before))
    checks.assert_same(np.asarray(imagecodecs.jpegls_decode(data)), frame)
    check_jpeg_ls(data, frame)


LS_DATA = bytes(imagecodecs.jpegls_encode(LS_FRAMES["12 bits"]))
OTHER_JPEG_LS = {
    "near-lossless": (bytes(imagecodecs.jpegls_encode(LS_FRAMES["12 bits"], level=2)), (40, 70), "uint16"),
    "another shape": (LS_DATA, (70, 40), "uint16"),
    "too few bits": (LS_DATA, (40, 70), "uint8"),
    "cut short": (LS_DATA[:-200], (40, 70), "uint16"),
    "headers cut short": (LS_DATA[:30], (40, 70), "uint16"),
    "a restart interval": (LS_DATA.replace(b"\xff\xda", b"\xff\xdd\0\4\0\5\xff\xda", 1), (40, 70), "uint16"),
    "a mapping table": (LS_DATA.replace(b"\xff\xda", b"\xff\xf8\0\4\2\5\xff\xda", 1), (40, 70), "uint16"),
    "impossible parameters": (with_presets(LS_DATA, 4095, 9, 3, 1, 64), (40, 70), "uint16"),
    "lossless JPEG": (JPEGS["predictor 1"][0], (31, 43), "uint16"),
    "nothing": (b"", (40, 70), "uint16"),
}


@pytest.mark.parametrize("name", OTHER_JPEG_LS)
def test_what_is_no_jpeg_ls_of_this_form_is_left(name: str) -> None:
    data, shape, dtype = OTHER_JPEG_LS[name]
    assert take_apart("jpeg-ls", data, shape, np.dtype(dtype)) is None


def test_an_image_that_would_take_too_much_memory_is_left() -> None:
    wide = LS_DATA.replace(struct.pack(">HH", 40, 70), struct.pack(">HH", 65535, 65535), 1)
    assert take_apart("jpeg-ls", wide, (65535, 65535), np.dtype(np.uint16)) is None


# Run lengths: segments put together from codes that a chooser makes up.


def habitual(plane: bytes, columns: int, habit: tuple[bool, int, int]) -> bytes:
    """Encode a byte plane as an encoder of this habit does."""
    by_row, least, least_inside = habit
    out = bytearray()
    p = 0
    while p < len(plane):
        end = (p // columns + 1) * columns if by_row else len(plane)
        limit = min(end, p + 128)
        run = 1
        while p + run < limit and plane[p + run] == plane[p]:
            run += 1
        if run >= least:
            out += bytes([257 - run, plane[p]])
            p += run
            continue
        q = p + 1
        while q < limit and not (q + least_inside <= end and len(set(plane[q : q + least_inside])) == 1):
            q += 1
        out += bytes([q - p - 1]) + plane[p:q]
        p = q
    return bytes(out)


def arbitrary(plane: bytes, chooser: random.Random) -> bytes:
    """Encode a byte plane as nobody would."""
    out = bytearray()
    p = 0
    while p < len(plane):
        if chooser.random() < 0.05:
            out.append(128)
        n = chooser.randint(1, min(128, len(plane) - p))
        if len(set(plane[p : p + n])) == 1 and n > 1:
            out += bytes([257 - n, plane[p]])
        else:
            out += bytes([n - 1]) + plane[p : p + n]
        p += n
    return bytes(out)


def planes_of(frame: Array) -> list[bytes]:
    size = frame.dtype.itemsize
    flat = frame.astype(frame.dtype.newbyteorder(">")).reshape(frame.shape[0] * frame.shape[1], -1)
    return [flat[:, k].tobytes()[j::size] for k in range(flat.shape[1]) for j in range(size)]


def run_lengths(segments: list[bytes]) -> bytes:
    padded = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, padded[:k])) for k in range(len(padded))]
    header = struct.pack("<16I", len(padded), *offsets, *[0] * (15 - len(padded)))
    return header + b"".join(padded)


FRAMES = {
    "8 bits": field((40, 300), "uint8", 8),
    "16 bits": field((40, 90), "uint16", 12),
    "signed": field((40, 90), "int16", 12),
    "32 bits": field((20, 30), "uint32", 24),
    "colour": field((30, 40, 3), "uint8", 8),
    "flat": np.zeros((33, 257), np.uint16),
    "steps": np.repeat(np.arange(600, dtype=np.uint8), 2).reshape(30, 40),
}


@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("name", FRAMES)
def test_run_lengths_of_every_habit(name: str, habit: tuple[bool, int, int]) -> None:
    frame = FRAMES[name]
    data = run_lengths([habitual(plane, frame.shape[1], habit) for plane in planes_of(frame)])
    taken = take_apart("rle", data, frame.shape, frame.dtype)
    assert taken is not None
    image, found = taken
    checks.assert_same(found, frame)
    assert put_together(image.method, found, image.recipe) == data
    assert len(image.recipe) < 6 * len(planes_of(frame))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(1, 9), st.integers(1, 300))
def test_run_lengths_of_no_habit(seed: int, rows: int, columns: int) -> None:
    chooser = random.Random(seed)
    frame = np.repeat(np.random.default_rng(seed).integers(0, 5, (rows, columns)), 3, axis=1).astype(np.uint8)
    data = run_lengths([arbitrary(plane, chooser) for plane in planes_of(frame)])
    taken = take_apart("rle", data, frame.shape, frame.dtype)
    if taken is not None:  # None: more exceptions than are worth it
        assert put_together(taken[0].method, taken[1], taken[0].recipe) == data


def test_a_few_codes_of_no_habit_are_exceptions() -> None:
    frame = FRAMES["16 bits"]
    segments = [habitual(plane, frame.shape[1], HABITS[0]) for plane in planes_of(frame)]
    segments[0] = bytes([128, 128]) + segments[0] + b"\x80"
    segments[1] += b"behind"
    data = run_lengths(segments)
    taken = take_apart("rle", data, frame.shape, frame.dtype)
    assert taken is not None
    assert put_together(taken[0].method, taken[1], taken[0].recipe) == data


def test_what_is_no_run_length_image_of_this_form_is_left() -> None:
    frame = FRAMES["16 bits"]
    data = run_lengths([habitual(plane, frame.shape[1], HABITS[0]) for plane in planes_of(frame)])
    backwards = data[:4] + data[8:12] + data[4:8] + data[12:]
    for wrong in (data[:63], data[:100], b"", bytes(64) + data[64:], backwards):
        assert take_apart("rle", wrong, frame.shape, frame.dtype) is None
    assert take_apart("rle", data, (41, 90), frame.dtype) is None
    assert take_apart("rle", data, frame.shape, np.dtype(np.uint8)) is None
    assert take_apart("rle", data, (40, 90, 4), np.dtype(np.uint32)) is None


def compressed_image(name: str, frame: Array) -> bytes:
    """Return a frame of 12 bits, signed, as an image of the format `name`."""
    if name == "rle":
        return run_lengths([habitual(plane, frame.shape[1], HABITS[0]) for plane in planes_of(frame)])
    if name == "jpeg-ls":
        return bytes(imagecodecs.jpegls_encode(frame.view(np.uint16)))
    if name == "jpeg-2000":
        return bytes(imagecodecs.jpeg2k_encode(frame, reversible=True, codecformat="j2k"))
    return lossless_jpeg(frame, 12)


def series(name: str) -> tuple[Array, list[Image], list[Array], Array]:
    """Return frames of bytes that are images of the format `name`, the images taken apart, and their samples."""
    frames = [field((40, 50), "int16", 12, seed) for seed in range(4)]
    data = [compressed_image(name, frame) for frame in frames]
    size = max(map(len, data))
    padded = [image + b"\0" * (size - len(image)) for image in data]
    taken = [
        take_apart(name, image, frame.shape, frame.dtype) for image, frame in zip(data, frames, strict=True)
    ]
    images = [found[0] for found in taken if found]
    assert len(images) == 4
    return np.frombuffer(b"".join(padded), np.uint8).reshape(4, 1, -1), images, frames, np.stack(frames)


@pytest.mark.parametrize("name", FORMATS)
def test_a_series_in_a_stream(name: str) -> None:
    rows, images, _, samples = series(name)
    codec = Reconstruct(options={"effort": "fast"})
    pieces = [Piece(k * rows.shape[2], k, 0, image.size) for k, image in enumerate(images)]
    stream = codec.encode_images(rows, images, pieces, samples, [-1, 0, 1, 2])
    checks.assert_same(codec.decode(stream, max_pixels=rows.size), rows)
    checks.assert_same(codec.decode(stream, [2, 0]), rows[[2, 0]])
    chooser = random.Random(8)
    for _ in range(120):
        outcome = tried(codec, damaged(stream, stream, chooser), None)
        assert outcome in ("decoded", "refused"), outcome
    with pytest.raises(ValueError, match="images to restore"):
        codec.encode_images(rows, images, pieces, samples[:2])


@pytest.mark.parametrize("name", FORMATS)
def test_recipes_that_lie_are_refused(name: str) -> None:
    """Samples and recipe belong together: whatever a recipe says, nothing but CodecError comes of it."""
    rows, images, frames, _ = series(name)
    assert len(rows) == 4
    chooser = random.Random(9)
    recipe = images[0].recipe
    for _ in range(400):
        lie = bytearray(recipe)
        for _ in range(chooser.randint(1, 4)):
            at = chooser.randrange(len(lie))
            kind = chooser.randrange(3)
            if kind == 0:
                lie[at] = chooser.choice([0, 1, 2, 127, 128, 254, 255])
            elif kind == 1:
                del lie[at : at + chooser.randint(1, 5)]
            else:
                lie[at:at] = bytes(chooser.randrange(256) for _ in range(chooser.randint(1, 9)))
            lie = lie or bytearray(b"\0")
        try:
            put_together(images[0].method, frames[0], bytes(lie))
        except CodecError:
            continue
    with pytest.raises(CorruptStreamError):
        put_together(images[0].method, np.stack([frames[0]] * 16, axis=-1), recipe)
    with pytest.raises(CorruptStreamError):
        put_together(99, frames[0], recipe)


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_images_are_left(name: str) -> None:
    """A sender may send anything: what is not an image of its kind is None, and nothing is raised."""
    rows, images, frames, _ = series(name)
    data = rows[0].tobytes()[: images[0].size]
    chooser = random.Random(10)
    for _ in range(300):
        hostile = bytearray(data)
        for _ in range(chooser.randint(1, 3)):
            at = chooser.randrange(chooser.choice([100, len(hostile)]))
            hostile[at] = chooser.choice([0, 1, 127, 128, 254, 255, chooser.randrange(256)])
        if chooser.random() < 0.2:
            del hostile[chooser.randrange(len(hostile)) :]
        taken = take_apart(name, bytes(hostile), frames[0].shape, frames[0].dtype)
        if taken is not None:
            assert put_together(taken[0].method, taken[1], taken[0].recipe) == hostile


@pytest.mark.parametrize("name", FORMATS)
def test_published_recipes(name: str) -> None:
    stream = (GOLDEN / f"reconstruct-v1-{name}.bin").read_bytes()
    checks.assert_same(Reconstruct().decode(stream), np.load(GOLDEN / f"reconstruct-v1-{name}.npy"))


def test_what_restores_images_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "CACHE_FOLDER", tmp_path)
    assert not warm.restorable_compiled()
    warm.warm_restorable()
    assert warm.restorable_compiled()


def test_what_does_not_come_back_fails_the_self_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(warm, "put_together", lambda *_: b"")
    with pytest.raises(ValueError, match="rle does not come back"):
        warm.warm_restorable()
    assert not warm.restorable_compiled()
