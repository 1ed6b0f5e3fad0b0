"""JPEG with a discrete cosine transform: images of every form come back to the byte, alone and in groups."""

import hashlib
import random
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from dcmpress.codecs.errors import CodecError, CorruptStreamError, TooLargeError
from dcmpress.codecs.jpeg_dct import stream
from dcmpress.codecs.jpeg_dct.headers import HeaderReader
from dcmpress.codecs.jpeg_dct.image import Jpeg, Layout, _tables, layout_of, put_together, take_apart
from dcmpress.codecs.jpeg_dct.scans import encode_scan
from dcmpress.codecs.jpeg_dct.stream import CoefficientWriter, restore
from dcmpress.codecs.reconstruct import jpeg_xl_image, take_jpeg_apart
from dcmpress.storage.encapsulated import find_encapsulated
from dcmpress.storage.errors import MalformedError
from tests.codecs.jpeg_dct_reference import GroupDecoder
from tests.corpus_files import corpus, data_set, part10_files

Array = NDArray[Any]
MANY = 1 << 30
_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")


def scene(
    rows: int = 90, columns: int = 120, samples: int = 3, seed: int = 0, noise: float = 5
) -> NDArray[np.uint8]:
    """Return waves that move with `seed`, under noise: (rows, columns) or (rows, columns, samples)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    waves = [120 + 90 * np.sin((x + seed) / (9 + k)) * np.cos(y / (7 + k)) for k in range(samples)]
    pixels = np.stack(waves, axis=-1) + rng.normal(0, noise, (rows, columns, samples))
    return np.clip(pixels, 0, 255).astype(np.uint8).squeeze(-1 if samples == 1 else ())


def jpeg(pixels: NDArray[np.uint8], mode: str | None = None, **options: Any) -> bytes:
    out = BytesIO()
    Pillow.fromarray(pixels, mode).save(out, "JPEG", **{"quality": 88, **options})
    return out.getvalue()


def kept(images: list[bytes]) -> tuple[bytes, list[bytes], list[int]]:
    """Return stream, recipes and sizes of images that can all be taken apart."""
    writer = CoefficientWriter()
    recipes = []
    for data in images:
        taken = take_apart(data, MANY)
        assert taken is not None
        assert taken.layout == layout_of(taken.recipe)[0]
        writer.add(taken, len(data))
        recipes.append(taken.recipe)
    return writer.finish(), recipes, [len(data) for data in images]


def check(images: list[bytes], chosen: list[int] | None = None) -> int:
    """Check that images come back; return the bytes of their stream."""
    coded, recipes, sizes = kept(images)
    numbers = list(range(len(images))) if chosen is None else chosen
    assert restore(memoryview(coded), recipes, sizes, numbers, MANY) == [images[k] for k in numbers]
    return len(coded)


FORMS: dict[str, bytes] = {
    "grey": jpeg(scene(samples=1)),
    "colour 4:2:0": jpeg(scene()),
    "colour 4:2:2": jpeg(scene(), subsampling=1),
    "colour 4:4:4": jpeg(scene(), subsampling=0),
    "four components": jpeg(np.dstack([scene(), scene(samples=1)]), mode="CMYK"),
    "optimised tables": jpeg(scene(), optimize=True),
    "restart markers": jpeg(scene(), restart_marker_blocks=3),
    "restarts by row": jpeg(scene(), restart_marker_rows=1),
    "more than eight restarts": jpeg(scene(), restart_marker_blocks=1),
    "odd size": jpeg(scene(33, 17)),
    "one pixel": jpeg(scene(1, 1)),
    "one row": jpeg(scene(1, 300)),
    "one column": jpeg(scene(300, 1, samples=1)),
    "the best quality, noise": jpeg(scene(noise=80), quality=100, subsampling=0),
    "the worst quality": jpeg(scene(), quality=1),
    "black": jpeg(np.zeros((64, 64), np.uint8)),
    "white": jpeg(np.full((64, 64, 3), 255, np.uint8)),
    "checkers": jpeg((np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8), quality=100),
    "comment": jpeg(scene(), comment=b"made for a test"),
    "a zero byte after the end": jpeg(scene()) + b"\0",
    "another image after the end": jpeg(scene()) * 2,
    "garbage after the end": jpeg(scene()) + b"\xff\xd8 not an image \x00\xff",
    "without an end": jpeg(scene())[:-2],
}


def odd_forms() -> dict[str, bytes]:
    """Return what encoders rarely write and the standard allows, or readers bear with."""
    grey = FORMS["grey"]
    sof, dqt = grey.index(b"\xff\xc0"), grey.index(b"\xff\xdb")
    steps = b"".join(struct.pack(">H", step) for step in grey[dqt + 5 : dqt + 69])
    own = in_scans_of_their_own(FORMS["colour 4:2:0"])
    second = own.index(b"\xff\xda", own.index(b"\xff\xda") + 2)
    thumbnail = jpeg(scene(16, 16))
    exif = b"\xff\xe1" + struct.pack(">H", 8 + len(thumbnail)) + b"Exif\0\0" + thumbnail
    return {
        "bytes that fill up before a marker": grey[:sof] + b"\xff\xff" + grey[sof:],
        "an application segment between scans": own[:second] + b"\xff\xe5\0\6abcd" + own[second:],
        "4 x 4 blocks of a single component": grey[: sof + 11] + b"\x44" + grey[sof + 12 :],
        "DNL": grey[:-2] + b"\xff\xdc\0\4" + grey[sof + 5 : sof + 7] + b"\xff\xd9",
        "steps of 16 bits": grey[:dqt] + b"\xff\xdb\0\x83\x10" + steps + grey[dqt + 69 :],
        "a thumbnail": grey[:2] + exif + grey[2:],
    }


def test_odd_forms_come_back() -> None:
    for name, data in odd_forms().items():
        print(name)
        check([data] * 2)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_comes_back(name: str) -> None:
    check([FORMS[name]])
    check([FORMS[name]] * 3)


def with_zeros(data: bytes) -> bytes:
    """Return a JPEG image whose last byte of coded data is filled with zeros."""
    taken = take_apart(data, MANY)
    assert taken is not None
    return put_together(taken.layout, taken.coefficients, b"\1" + taken.recipe[1:], 2 * len(data))


def test_an_encoder_that_fills_up_with_zeros() -> None:
    filled = [data for data in FORMS.values() if with_zeros(data) != data]
    assert len(filled) > 10
    for data in filled:
        check([with_zeros(data)])


def in_scans_of_their_own(data: bytes) -> bytes:
    """Return a baseline image with one scan for each component, by our own encoder."""
    taken = take_apart(data, MANY)
    assert taken is not None
    layout, coefficients = taken.layout, taken.coefficients
    headers = HeaderReader()
    scan, length = headers.read(data, first=True)
    frame = headers.frame
    assert frame is not None
    n = len(scan.components)
    out = bytearray(data[: length - 8 - 2 * n])
    selectors = data[length - 3 - 2 * n : length - 3]
    for k, component in enumerate(scan.components):
        out += struct.pack(">HHB", 0xFFDA, 8, 1) + selectors[2 * k : 2 * k + 2] + b"\0\x3f\0"
        _, dc_words, dc_lengths = _tables(scan.dc_tables[k])
        _, ac_words, ac_lengths = _tables(scan.ac_tables[k])
        room = np.empty(len(data) + 64, np.uint8)
        end = encode_scan(
            coefficients,
            dc_words[np.newaxis],
            dc_lengths[np.newaxis],
            ac_words[np.newaxis],
            ac_lengths[np.newaxis],
            np.array([[layout.start(component), layout.blocks[component][1], 1, 1]], np.int64),
            frame.own_blocks(component),
            0,
            True,
            room,
        )
        assert end > 0
        out += room[:end].tobytes()
    return bytes(out) + b"\xff\xd9"


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_scans_that_are_not_interleaved(subsampling: int) -> None:
    for shape in ((90, 120), (64, 64), (33, 17)):
        usual = jpeg(scene(*shape), subsampling=subsampling)
        own = in_scans_of_their_own(usual)
        assert own.count(b"\xff\xda") == 3
        pixels, ours = (np.asarray(Pillow.open(BytesIO(data))) for data in (usual, own))
        np.testing.assert_array_equal(ours, pixels)  # libjpeg reads it as it reads the usual one
        check([own, own])


OTHERS = {
    "progressive": jpeg(scene(), progressive=True),
    "arithmetic coding": jpeg(scene(samples=1)).replace(b"\xff\xc0", b"\xff\xc9", 1),
    "cut short": jpeg(scene())[:2000],
    "nothing but a start": b"\xff\xd8",
    "no image": b"The quick brown fox",
    "nothing": b"",
    "a scan too many": jpeg(scene(samples=1)).replace(
        b"\x01\x01\x00\x00\x3f\x00", b"\x02\x01\x00\x00\x3f\x00"
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_of_another_kind_is_not_taken(name: str) -> None:
    try:
        assert take_apart(OTHERS[name], MANY) is None
    except CodecError:
        pass


def test_an_image_with_an_unusual_restart_marker_is_not_taken() -> None:
    data = FORMS["restart markers"]
    at = data.index(b"\xff\xd1")
    assert take_apart(data[:at] + b"\xff\xd5" + data[at + 2 :], MANY) is None


def test_all_of_the_corpus_come_back_and_take_less_than_as_jpeg_xl() -> None:
    if corpus() is None:
        images = [[jpeg(scene(seed=seed)) for seed in range(8)]]
    else:
        images = list(filter(None, map(jpegs_of, part10_files())))
        assert len(images) >= 7
    for of_file in images:
        smaller = check(of_file)
        assert smaller < 0.86 * sum(map(len, of_file))
        others = [jpeg_xl_image(data) for data in of_file]
        if all(others):
            assert smaller < sum(len(image.stream) for image in others if image is not None)
        if len(of_file) > 2:  # cine
            assert smaller < 0.5 * sum(map(len, of_file))


def jpegs_of(path: Any) -> list[bytes]:
    """Return up to 40 images of a file in one of our transfer syntaxes; none of another."""
    try:
        meta, data = data_set(path)
        found = find_encapsulated(data, meta.transfer_syntax_uid) if _is_ours(meta) else None
    except MalformedError:
        return []
    if found is None:
        return []
    return [b"".join(data[start:stop] for start, stop in image) for image in found.images[:40]]


def _is_ours(meta: Any) -> bool:
    return meta.transfer_syntax_uid in _SYNTAXES


def test_still_images_take_next_to_nothing() -> None:
    data = jpeg(scene(200, 200))
    one, many = check([data]), check([data] * 20)
    assert many - one < 19 * 0.01 * len(data)


def test_moving_images_take_less_together() -> None:
    series = [jpeg(scene(seed=seed, noise=1)) for seed in range(6)]
    assert check(series) < 0.9 * sum(check([data]) for data in series)


def test_groups_are_restored_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "GROUP_BYTES", 3 * len(FORMS["colour 4:2:0"]))
    series = [jpeg(scene(seed=seed)) for seed in range(10)]
    series[4:4] = [FORMS["grey"], FORMS["odd size"]]
    coded, recipes, sizes = kept(series)
    assert memoryview(coded)[0] >= 5
    chooser = random.Random(1)
    for _ in range(15):
        numbers = sorted(chooser.sample(range(12), chooser.randrange(1, 6)))
        assert restore(memoryview(coded), recipes, sizes, numbers, MANY) == [series[k] for k in numbers]
    for k in range(12):  # one alone, with others' groups gone to pieces
        assert restore(memoryview(coded), recipes, sizes, [k], MANY) == [series[k]]


def test_no_images_are_no_bytes() -> None:
    assert CoefficientWriter().finish() == b""


def test_lies_are_refused() -> None:
    coded, recipes, sizes = kept([FORMS["grey"], FORMS["grey"]])
    other = kept([FORMS["odd size"]])[1][0]
    view = memoryview(coded)
    lies: dict[str, tuple[bytes | memoryview, list[bytes], list[int]]] = {
        "another layout": (view, [other, recipes[1]], sizes),
        "another layout later": (view, [recipes[0], other], sizes),
        "no recipe": (view, [b"", recipes[1]], sizes),
        "fewer images": (view, recipes[:1], sizes[:1]),
        "more images": (view, [*recipes, recipes[0]], [*sizes, sizes[0]]),
        "more blocks than bytes": (view, recipes, [sizes[0], 20]),
        "more coded data than bytes": (view, recipes, [sizes[0], len(FORMS["grey"]) // 2]),
        "more bytes": (coded + b"\0", recipes, sizes),
        "fewer bytes": (coded[:-1], recipes, sizes),
        "nothing": (b"", recipes, sizes),
    }
    for name, (data, told, lengths) in lies.items():
        with pytest.raises(CorruptStreamError, match=r"\w"):
            print(name, restore(memoryview(data), told, lengths, range(len(told)), MANY))
    with pytest.raises(TooLargeError):
        restore(view, recipes, sizes, [0], 64)


def test_very_many_groups_are_too_much() -> None:
    taken = take_apart(FORMS["one pixel"], MANY)
    assert taken is not None
    n, size = 100, len(FORMS["one pixel"])
    coded = bytes([n]) + b"\1\0" * n
    with pytest.raises(TooLargeError):
        restore(memoryview(coded), [taken.recipe] * n, [size] * n, range(n), 1 << 22)


def test_damage_raises_codec_errors_only() -> None:
    images = [FORMS["colour 4:2:0"], FORMS["colour 4:2:0"], FORMS["restart markers"]]
    coded, recipes, sizes = kept(images)
    chooser = random.Random(2)
    outcomes = set()
    for _ in range(60):
        broken, told = bytearray(coded), list(recipes)
        which = chooser.randrange(4)
        target = bytearray(told[which]) if which < 3 else broken
        for _ in range(chooser.randrange(1, 4)):
            target[chooser.randrange(len(target))] = chooser.randrange(256)
        if which < 3:
            told[which] = bytes(target)
        try:
            restored = restore(memoryview(bytes(broken)), told, sizes, [0, 1, 2], MANY)
            outcomes.add("other" if restored != images else "same")
        except CodecError:
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    "series",
    [
        [jpeg(scene(40, 56, seed=seed, noise=seed), subsampling=0) for seed in (0, 0, 1, 2)],
        [jpeg(scene(33, 17, samples=1, noise=90, seed=seed), quality=100) for seed in (0, 1)],
        [FORMS["one row"], FORMS["one row"]],
        [jpeg(scene(64, 80, seed=5))],
    ],
    ids=["moving", "noise", "one row", "one alone"],
)
def test_a_decoder_from_the_documentation_agrees(series: list[bytes]) -> None:
    taken = [take_apart(data, MANY) for data in series]
    writer = CoefficientWriter()
    for data, jpeg_image in zip(series, taken, strict=True):
        assert jpeg_image is not None
        writer.add(jpeg_image, len(data))
    (group,) = stream._groups(memoryview(writer.finish()), len(series))
    assert taken[0] is not None
    decoder = GroupDecoder(bytes(group.data), list(taken[0].layout.blocks))
    for jpeg_image in taken:
        assert jpeg_image is not None
        components = decoder.image(jpeg_image.steps.tolist())
        decoded = [blocks[place] for blocks in components for place in sorted(blocks)]
        np.testing.assert_array_equal(decoded, jpeg_image.coefficients)


def test_streams_are_the_same_on_every_machine() -> None:
    waves = np.add.outer(np.arange(96) * 3, np.arange(72) * 5) % 256
    pixels = [np.roll(waves, shift, axis=1).astype(np.uint8) for shift in (0, 1, 1)]
    blocks = [pattern(image) for image in pixels]
    writer = CoefficientWriter()
    for coefficients in blocks:
        writer.add(Jpeg(Layout(((12, 9),)), STEPS[:1], coefficients, b""), 4000)
    digest = hashlib.sha256(writer.finish()).hexdigest()
    assert digest == PINNED


def pattern(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return blocks of coefficients that need no transform: sums and differences, thinned out."""
    rows, columns = pixels.shape
    blocks = pixels.reshape(rows // 8, 8, columns // 8, 8).swapaxes(1, 2).reshape(-1, 64).astype(np.int16)
    thinned = np.where((blocks + np.arange(64)) % 7 < 2, (blocks - 128) // (1 + np.arange(64)), 0)
    return np.ascontiguousarray(thinned.astype(np.int16))


STEPS = np.stack([np.arange(64) + 3, np.full(64, 65535)])
PINNED = "d9c62ae2ba888bccffd714a4451218113f38545d1fe4d18cf81998f409bc7b65"


def test_extreme_coefficients() -> None:
    rng = np.random.default_rng(3)
    layout = Layout(((5, 4), (1, 3)))
    images = [
        rng.choice(np.array([-32767, -17, -18, -19, 0, 0, 0, 1, 17, 18, 19, 32767], np.int16), (23, 64))
        for _ in range(3)
    ]
    writer = CoefficientWriter()
    for coefficients in images:
        writer.add(Jpeg(layout, STEPS, coefficients, b""), 1)
    (group,) = stream._groups(memoryview(writer.finish()), 3)
    registers, buffer = stream.decoder_registers(bytes(group.data[:6])), bytearray(group.data)
    decoder = stream._Coder(layout, registers, np.frombuffer(buffer, np.uint8))
    for coefficients in images:
        decoded = np.empty_like(coefficients)
        decoder.code(False, decoded, STEPS)
        np.testing.assert_array_equal(decoded, coefficients)


def test_a_jpeg_that_is_not_sequential_goes_to_jpeg_xl() -> None:
    progressive = take_jpeg_apart(OTHERS["progressive"])
    assert progressive is not None
    assert progressive.image.stream
    sequential = take_jpeg_apart(FORMS["colour 4:2:0"])
    assert sequential is not None
    assert not sequential.image.stream
