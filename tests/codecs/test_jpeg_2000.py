"""JPEG 2000: code-streams of every form, ours and others', come back to the byte; OpenJPEG reads ours."""

import random
import struct
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from dcmpress.codecs.errors import CodecError, CorruptStreamError
from dcmpress.codecs.jpeg_2000.geometry import Geometry, geometry
from dcmpress.codecs.jpeg_2000.headers import read_main_header
from dcmpress.codecs.jpeg_2000.samples import to_planes
from dcmpress.codecs.jpeg_2000.tiles import Choices, Coded, packets_of
from dcmpress.codecs.restorable import put_together, take_apart
from dcmpress.storage.encapsulated import find_encapsulated
from dcmpress.storage.errors import MalformedError
from tests.codecs import checks
from tests.codecs.test_restorable import field
from tests.corpus_files import corpus, data_set, part10_files

Array = NDArray[Any]


@dataclass(frozen=True)
class Form:
    """What an encoder chooses."""

    bits: int = 12
    signed: bool = False
    colour: bool = False
    levels: int = 3
    block: tuple[int, int] = (4, 4)
    """Exponents of columns and rows."""
    style: int = 0
    progression: int = 0
    layers: int = 1
    precincts: bytes = b""
    tile: tuple[int, int] = (0, 0)
    """Columns and rows; 0: all."""
    origin: tuple[int, int] = (0, 0)
    tile_origin: tuple[int, int] = (0, 0)
    markers: int = 0
    """2: SOP, 4: EPH."""
    short: bool = False
    divided: bool = False
    """Two tile-parts for each tile, one after the other of all tiles."""
    guard: int = 2


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


def main_header(frame: Array, form: Form) -> bytes:
    """Return SOC, SIZ, COD, QCD (T.800 annex A)."""
    rows, columns = frame.shape[:2]
    n = 1 if frame.ndim == 2 else frame.shape[2]
    left, top = form.origin
    width, height = left + columns, top + rows
    tile = form.tile[0] or width, form.tile[1] or height
    size = struct.pack(">H8IH", 0, width, height, left, top, *tile, *form.tile_origin, n)
    size += bytes([form.bits - 1 | form.signed << 7, 1, 1]) * n
    coding = bytes([form.markers | bool(form.precincts), form.progression])
    coding += struct.pack(">HB", form.layers, form.colour)
    coding += bytes([form.levels, form.block[0] - 2, form.block[1] - 2, form.style, 1]) + form.precincts
    gains = [0] + [1, 1, 2] * form.levels
    exponents = bytes(form.bits + form.colour + gain << 3 for gain in gains)
    return (
        b"\xff\x4f"
        + segment(0xFF51, size)
        + segment(0xFF52, coding)
        + segment(0xFF5C, bytes([form.guard << 5]) + exponents)
    )


def in_layers(g: Geometry, coded: Coded, chooser: random.Random) -> NDArray[np.uint8]:
    """Divide the passes of blocks among layers, at random."""
    done = coded.first_pass[:-1].copy()
    layers = int(g.packets[:, 2].max()) + 1
    passes = []
    for _, precinct, layer in g.packets:
        for m in range(g.precincts[precinct], g.precincts[precinct + 1]):
            for b in range(g.parts[m, 0], g.parts[m, 0] + g.parts[m, 1] * g.parts[m, 2]):
                left = int(coded.first_pass[b + 1] - done[b])
                n = left if layer == layers - 1 else min(left, chooser.choice([0, 0, 1, 2, 5, 40]))
                done[b] += n
                passes.append(n)
    return np.array(passes, np.uint8)


def choices(form: Form, g: Geometry, coded: Coded) -> Choices:
    if form.layers == 1:
        return Choices(short=form.short)
    passes = in_layers(g, coded, random.Random(form.layers))
    made = Choices(short=form.short, passes=passes)
    done = coded.first_pass[:-1].copy()
    cuts = 0
    contribution = 0
    for _, precinct, _ in g.packets:
        for m in range(g.precincts[precinct], g.precincts[precinct + 1]):
            for b in range(g.parts[m, 0], g.parts[m, 0] + g.parts[m, 1] * g.parts[m, 2]):
                n = passes[contribution]
                contribution += 1
                done[b] += n
                cuts += bool(n) and not coded.last[done[b] - 1]
    made.cuts = np.zeros(cuts, np.int8)
    return made


def code_stream(frame: Array, form: Form) -> bytes:
    """Encode samples in one form."""
    header = main_header(frame, form)
    p, _ = read_main_header(header + b"\xff\x90")
    g = geometry(p)
    bodies = packets_of(p, g, to_planes(frame, p, g), lambda coded: choices(form, g, coded))
    out = header
    for part in range(1 + form.divided):
        for tile, body in enumerate(bodies):
            middle = len(body) // 3 if form.divided else len(body)
            piece = body[middle:] if part else body[:middle]
            out += segment(0xFF90, struct.pack(">HIBB", tile, len(piece) + 14, part, 0)) + b"\xff\x93" + piece
    return out + b"\xff\xd9"


GRAY = field((61, 83), "uint16", 12)
COLOUR = field((45, 52, 3), "uint8", 8)
FORMS: dict[str, tuple[Array, Form]] = {
    "as it comes": (GRAY, Form()),
    "8 bits": (field((61, 83), "uint8", 8), Form(8)),
    "16 bits": (field((61, 83), "uint16", 16), Form(16)),
    "signed": (field((61, 83), "int16", 12), Form(12, signed=True)),
    "signed, all of 16 bits": (field((61, 83), "int16", 16), Form(16, signed=True)),
    "one bit": (field((61, 83), "uint8", 1), Form(1)),
    "colour": (COLOUR, Form(8, colour=True)),
    "colour, not transformed": (COLOUR, Form(8)),
    "no level": (GRAY, Form(levels=0)),
    "eleven levels": (GRAY, Form(levels=11)),
    "noise": (np.random.default_rng(1).integers(0, 1 << 16, (70, 70)).astype(np.uint16), Form(16, block=(6, 6))),
    "nothing": (np.zeros((40, 40), np.uint16), Form()),
    "middle": (np.full((40, 40), 2048, np.uint16), Form()),
    "nothing, short": (np.full((40, 40), 2048, np.uint16), Form(short=True)),
    "a row": (GRAY[:1], Form()),
    "a column": (GRAY[:, :1], Form()),
    "a sample": (GRAY[30:31, 40:41], Form()),
    "wide blocks": (GRAY, Form(block=(10, 2))),
    "high blocks": (GRAY, Form(block=(2, 10))),
    "small blocks": (GRAY, Form(block=(2, 2))),
    "an origin": (GRAY, Form(origin=(7, 13))),
    "tiles": (GRAY, Form(tile=(31, 17))),
    "tiles from an origin": (GRAY, Form(tile=(31, 17), origin=(9, 12), tile_origin=(5, 3))),
    "tile-parts": (GRAY, Form(tile=(50, 50), divided=True)),
    "markers": (GRAY, Form(markers=6, precincts=b"\x44\x44\x44\x44")),
    "SOP": (GRAY, Form(markers=2, tile=(40, 40))),
    "more guard bits": (GRAY, Form(guard=5)),
    **{f"style {style}": (GRAY, Form(style=style, block=(5, 3))) for style in (1, 2, 4, 8, 16, 32, 5, 17, 20, 63)},
    **{
        f"style {style} in layers": (GRAY, Form(style=style, layers=7, block=(5, 4)))
        for style in (0, 1, 2, 4, 8, 17, 63)
    },
    **{
        f"progression {order}": (
            COLOUR,
            Form(8, colour=True, progression=order, layers=3, precincts=b"\x33\x43\x34\x55", block=(3, 3)),
        )
        for order in range(5)
    },
    **{
        f"progression {order} in tiles": (
            COLOUR,
            Form(
                8, progression=order, layers=2, precincts=b"\x22\x43\x34\x55", tile=(33, 29), origin=(6, 3), short=True
            ),
        )
        for order in range(5)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read_by_openjpeg_and_comes_back(name: str) -> None:
    frame, form = FORMS[name]
    data = code_stream(frame, form)
    decoded = imagecodecs.jpeg2k_decode(data)
    checks.assert_same(decoded.reshape(frame.shape).astype(frame.dtype), frame)
    taken = take_apart("jpeg-2000", data, frame.shape, frame.dtype)
    assert taken is not None
    image, found = taken
    checks.assert_same(found, frame)
    assert put_together(image.method, found, image.recipe) == data


@pytest.mark.parametrize("options", [{}, {"resolutions": 1}, {"mct": False}])
@pytest.mark.parametrize(
    "frame", [GRAY, COLOUR, field((40, 90), "int16", 12)], ids=["gray", "colour", "signed"]
)
def test_images_of_openjpeg(frame: Array, options: dict[str, Any]) -> None:
    data = bytes(imagecodecs.jpeg2k_encode(frame, reversible=True, codecformat="j2k", **options))
    taken = take_apart("jpeg-2000", data + b"\0", frame.shape, frame.dtype)
    assert taken is not None
    image, found = taken
    checks.assert_same(found, frame)
    assert put_together(image.method, found, image.recipe) == data + b"\0"
    assert len(image.recipe) < 400


def test_samples_that_the_data_set_calls_otherwise() -> None:
    """Signed in the code-stream or in the data set, and not in the other."""
    signed = field((40, 30), "int16", 12)
    for frame, dtype in ((signed, "uint16"), (GRAY, "int16")):
        data = code_stream(frame, Form(12, signed=frame.dtype.kind == "i"))
        taken = take_apart("jpeg-2000", data, frame.shape, np.dtype(dtype))
        assert taken is not None
        assert put_together(taken[0].method, taken[1], taken[0].recipe) == data
        checks.assert_same(taken[1] & 0xFFF, (frame & 0xFFF).astype(dtype))


def test_ends_of_segments_of_another_encoder() -> None:
    """Segments that go on longer than ours, and a packet header that is a bit longer."""
    plain = code_stream(GRAY, Form(style=2, levels=0, block=(8, 4)))
    header = main_header(GRAY, Form(style=2, levels=0, block=(8, 4)))
    p, _ = read_main_header(header + b"\xff\x90")
    g = geometry(p)
    usual: list[Coded] = []

    def other(coded: Coded) -> Choices:
        usual.append(coded)
        n = int(coded.last.sum())
        removed, inserted = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        inserted[0], inserted[-1] = 3, 1
        return Choices(removed=removed, inserted=inserted, bytes_inserted=np.full(4, 255, np.uint8))

    body = packets_of(p, g, to_planes(GRAY, p, g), other)[0]
    part = segment(0xFF90, struct.pack(">HIBB", 0, len(body) + 14, 0, 1)) + b"\xff\x93"
    data = header + part + body + b"\xff\xd9"
    assert len(data) == len(plain) + 4
    taken = take_apart("jpeg-2000", data, GRAY.shape, GRAY.dtype)
    assert taken is not None
    checks.assert_same(taken[1], GRAY)
    assert put_together(taken[0].method, taken[1], taken[0].recipe) == data


def with_longer_header(frame: Array) -> tuple[bytes, bytes]:
    """Return an image of one block, whose length is told in a bit more than it takes, and its packet header."""
    form = Form(levels=0, block=(6, 6))
    plain = code_stream(frame, form)
    at = plain.index(b"\xff\x93") + 2
    bits = "".join(f"{byte:08b}" for byte in plain[at : at + 8])
    assert bits[:2] == "11"  # not empty, included
    sign = bits.index("1", 2) + 1  # missing bit-planes
    sign += 9  # 6 to 36 passes
    raised = bits.index("0", sign)
    size = 3 + raised - sign + int(np.log2(int(bits[sign - 5 : sign], 2) + 6))
    length = bits[raised + 1 : raised + 1 + size]
    rest = plain[at + -(-(raised + 1 + size) // 8) :]
    assert int(length, 2) == len(rest) - 2
    longer = bits[:raised] + "10" + "0" + length
    longer += "0" * (-len(longer) % 8)
    header = bytes(int(longer[k : k + 8], 2) for k in range(0, len(longer), 8))
    assert b"\xff" not in header
    part = segment(0xFF90, struct.pack(">HIBB", 0, len(header) + len(rest) - 2 + 14, 0, 1)) + b"\xff\x93"
    data = main_header(frame, form) + part + header + rest
    return data, header


def test_a_packet_header_of_another_encoder() -> None:
    frame = GRAY[:60, :60]
    data, header = with_longer_header(frame)
    taken = take_apart("jpeg-2000", data, frame.shape, frame.dtype)
    assert taken is not None
    checks.assert_same(taken[1], frame)
    assert header in taken[0].recipe
    assert put_together(taken[0].method, taken[1], taken[0].recipe) == data


def test_images_of_the_corpus() -> None:
    """Of JPEG 2000 files whose samples are all there, each comes back; the others are left."""
    wanted = {
        "CT1_J2KR", "XA1_J2KR", "US1_J2KR", "VL1_J2KR", "liver_j2k.dcm",
        "CTImage.dcm_JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm",
    }  # fmt: skip
    found = set()
    for path in part10_files():
        try:
            meta, data = data_set(path)
        except MalformedError:
            continue
        images = None
        if meta.transfer_syntax_uid.endswith((".4.90", ".4.91", ".4.201")):
            images = find_encapsulated(data, meta.transfer_syntax_uid)
        if images is None:
            continue
        image = b"".join(data[start:stop] for start, stop in images.images[0])
        try:
            p, _ = read_main_header(image)
        except CodecError:
            continue
        dtype = ("int" if p.signed[0] else "uint") + ("16" if max(p.precisions) > 8 else "8")
        taken = take_apart("jpeg-2000", image, p.shape, np.dtype(dtype))
        if taken is not None:
            found.add(path.name)
            checks.assert_same(taken[1], imagecodecs.jpeg2k_decode(image).reshape(p.shape).astype(dtype))
            assert len(taken[0].recipe) < 150 + len(image) // 100
    assert found == (wanted if corpus() else set())


def test_what_is_no_reversible_image_of_this_form_is_left() -> None:
    data = code_stream(GRAY, Form())
    for wrong in (data[:1], data[:100], data[:-200], b"", data[2:], b"\xff\xd8" + data[2:]):
        assert take_apart("jpeg-2000", wrong, GRAY.shape, GRAY.dtype) is None
    assert take_apart("jpeg-2000", data, (83, 61), GRAY.dtype) is None
    assert take_apart("jpeg-2000", data, GRAY.shape, np.dtype(np.uint8)) is None
    assert take_apart("jpeg-2000", data, GRAY.shape, np.dtype(np.uint32)) is None
    lossy = bytes(imagecodecs.jpeg2k_encode(GRAY, level=30, reversible=False, codecformat="j2k"))
    assert take_apart("jpeg-2000", lossy, GRAY.shape, GRAY.dtype) is None
    truncated = bytes(imagecodecs.jpeg2k_encode(GRAY, level=30, reversible=True, codecformat="j2k"))
    assert take_apart("jpeg-2000", truncated, GRAY.shape, GRAY.dtype) is None
    throughput = bytes(imagecodecs.htj2k_encode(GRAY, reversible=True))
    assert take_apart("jpeg-2000", throughput, GRAY.shape, GRAY.dtype) is None


def test_headers_that_ask_for_too_much_are_refused() -> None:
    """Nothing is allocated for what a header only claims."""
    for form in (
        Form(levels=32, layers=65535, tile=(2, 2)),
        Form(precincts=b"\x00\x11\x11\x11", layers=65535),
        Form(layers=65535, block=(2, 2)),
    ):
        frame = np.zeros((512, 512), np.uint16)
        p, _ = read_main_header(main_header(frame, form) + b"\xff\x90")
        with pytest.raises(CorruptStreamError):
            geometry(p)
