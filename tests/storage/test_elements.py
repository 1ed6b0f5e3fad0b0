"""Walking encoded data sets: every layout, and everything that is wrong with one."""

import struct
import zlib
from itertools import pairwise

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dcmpress.storage.archive import WANTED
from dcmpress.storage.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_DATA,
    Element,
    encoding_of,
    find_pixel_data,
    inflate,
    iterate,
)
from dcmpress.storage.errors import MalformedError
from dcmpress.storage.leading import read_leading
from tests.storage.objects import encoded, image, picture

NATIVE = [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN]
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
UNDEFINED = 0xFFFFFFFF


def nested(undefined: bool) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "T-1"
    inner.is_undefined_length_sequence_item = undefined
    middle = Dataset()
    middle.ConceptCodeSequence = Sequence([inner, inner])
    middle["ConceptCodeSequence"].is_undefined_length = undefined
    middle.is_undefined_length_sequence_item = undefined
    outer = image(1, picture(4, 4))
    outer.AnatomicRegionSequence = Sequence([middle])
    outer["AnatomicRegionSequence"].is_undefined_length = undefined
    outer.ReferencedImageSequence = Sequence([])
    return outer


def implicit(tag: tuple[int, int], value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", *tag, len(value) if length is None else length) + value


def explicit(tag: tuple[int, int], vr: bytes, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHI", *tag, vr, 0, length) + value
    return struct.pack("<HH2sH", *tag, vr, length) + value


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def tags_of(data: bytes, syntax: str) -> list[int]:
    return [element.tag for element in iterate(data, encoding_of(syntax))]


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("undefined", [False, True])
def test_elements_cover_the_data_set(syntax: str, undefined: bool) -> None:
    data_set = nested(undefined)
    data = encoded(data_set, syntax)
    elements = list(iterate(data, encoding_of(syntax)))
    assert [element.tag for element in elements] == [int(element.tag) for element in data_set]
    assert elements[0].start == 0
    assert elements[-1].end == len(data)
    assert all(a.end == b.start for a, b in pairwise(elements))
    pixels = elements[-1]
    assert data[pixels.value : pixels.end] == data_set.PixelData


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("undefined", [False, True])
def test_every_truncation_is_an_error_or_ends_between_elements(syntax: str, undefined: bool) -> None:
    data = encoded(nested(undefined), syntax)
    whole = list(iterate(data, encoding_of(syntax)))
    ends = {0, *(element.end for element in whole)}
    for length in range(len(data)):
        found: list[Element] = []
        try:
            for element in iterate(data[:length], encoding_of(syntax)):
                found.append(element)
            assert length in ends
        except MalformedError:
            assert length not in ends
        assert found == [element for element in whole if element.end <= length]
        leading = read_leading(data[:length], syntax, WANTED)
        assert leading.sop_class_uid in ("", "1.2.840.10008.5.1.4.1.1.4")


def test_un_of_undefined_length_is_implicit_inside() -> None:
    item = implicit(ITEM, implicit((0x0008, 0x0100), b"AB"), UNDEFINED) + implicit(ITEM_END, b"")
    value = item + implicit(SEQUENCE_END, b"")
    data = explicit((0x0009, 0x1010), b"UN", value, UNDEFINED) + explicit((0x0010, 0x0020), b"LO", b"ID")
    first, second = iterate(data, encoding_of(EXPLICIT_VR_LITTLE_ENDIAN))
    assert first.undefined_length
    assert (first.value, first.end) == (12, 12 + len(value))
    assert data[second.value : second.end] == b"ID"
    # In a sequence of explicit items too, and its own items may be nested.
    deeper = implicit((0x0009, 0x1011), item + implicit(SEQUENCE_END, b""), UNDEFINED)
    un = explicit(
        (0x0009, 0x1010),
        b"UN",
        implicit(ITEM, deeper, UNDEFINED) + implicit(ITEM_END, b"") + implicit(SEQUENCE_END, b""),
        UNDEFINED,
    )
    sequence = explicit(
        (0x0008, 0x1140),
        b"SQ",
        implicit(ITEM, un + explicit((0x0010, 0x0020), b"LO", b"ID"), UNDEFINED)
        + implicit(ITEM_END, b"")
        + implicit(SEQUENCE_END, b""),
        UNDEFINED,
    )
    assert [e.end for e in iterate(sequence, encoding_of(EXPLICIT_VR_LITTLE_ENDIAN))] == [len(sequence)]


def test_encapsulated_pixel_data() -> None:
    fragments = implicit(ITEM, b"") + implicit(ITEM, b"\xff\xd8" * 9) + implicit(SEQUENCE_END, b"")
    data = explicit((0x0010, 0x0020), b"LO", b"ID") + explicit((0x7FE0, 0x0010), b"OB", fragments, UNDEFINED)
    elements = list(iterate(data, encoding_of(EXPLICIT_VR_LITTLE_ENDIAN)))
    assert elements[-1].end == len(data)
    assert elements[-1].undefined_length


@pytest.mark.parametrize("depth", [10, 32, 33, 1000, 100_000])
def test_nesting_without_end(depth: int) -> None:
    opening = implicit((0x0008, 0x1140), b"", UNDEFINED) + implicit(ITEM, b"", UNDEFINED)
    closing = implicit(ITEM_END, b"") + implicit(SEQUENCE_END, b"")
    data = opening * depth + closing * depth
    if depth < 33:
        assert tags_of(data, IMPLICIT_VR_LITTLE_ENDIAN) == [0x00081140]
    else:
        with pytest.raises(MalformedError, match="deeper"):
            tags_of(data, IMPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize(
    "data",
    [
        implicit((0x0010, 0x0010), b"AB", 0xFFFFFFFE),
        implicit((0x0010, 0x0010), b"AB", 3),
        implicit((0x0010, 0x0010), b"AB", UNDEFINED),
        implicit((0x0008, 0x1140), implicit(ITEM, b"AB", 0xFFFFFFF0), UNDEFINED),
        implicit((0x0008, 0x1140), implicit((0x0010, 0x0010), b"AB"), UNDEFINED),
        implicit((0x0008, 0x1140), implicit(SEQUENCE_END, b"")[:-1], UNDEFINED),
        implicit((0x0008, 0x1140), implicit(ITEM, b"", UNDEFINED), UNDEFINED),
    ],
)
def test_lengths_that_lead_nowhere(data: bytes) -> None:
    with pytest.raises(MalformedError):
        tags_of(data, IMPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("vr", [b"\0\0", b"pn", b"1N", b"P "])
def test_a_vr_that_is_none(vr: bytes) -> None:
    with pytest.raises(MalformedError, match="no valid VR"):
        tags_of(explicit((0x0010, 0x0010), vr, b"AB"), EXPLICIT_VR_LITTLE_ENDIAN)


def test_group_lengths_and_odd_lengths_are_elements_like_others() -> None:
    data = explicit((0x0008, 0x0000), b"UL", b"\x0a\0\0\0") + explicit((0x0008, 0x0060), b"CS", b"MRI")
    data += explicit((0x0010, 0x0020), b"LO", b"ID")
    assert tags_of(data, EXPLICIT_VR_LITTLE_ENDIAN) == [0x00080000, 0x00080060, 0x00100020]
    assert read_leading(data, EXPLICIT_VR_LITTLE_ENDIAN, WANTED).attributes == {
        "Modality": "MRI",
        "PatientID": "ID",
    }


def test_until_ends_before_a_value_that_is_not_there() -> None:
    data = encoded(image())
    cut = data[:-1]
    last = 0x00400000
    assert [e.tag for e in iterate(cut, encoding_of(EXPLICIT_VR_LITTLE_ENDIAN), until=last)][-1] < last
    # An element out of order does not end it.
    odd = explicit((0x0040, 0x0001), b"LO", b"XY") + explicit((0x0010, 0x0020), b"LO", b"ID")
    found = [e.tag for e in iterate(odd + odd, encoding_of(EXPLICIT_VR_LITTLE_ENDIAN), until=0x00400001)]
    assert found == [0x00400001, 0x00100020, 0x00400001, 0x00100020]


@pytest.mark.parametrize("syntax", [*NATIVE, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN])
def test_leading_stops_before_the_pixels(syntax: str) -> None:
    """A window that ends inside the pixel data holds everything that is wanted: nothing is wrong with it."""
    data_set = image(3, picture(64, 64, frames=4))
    if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data = deflate(encoded(data_set))
    else:
        data = encoded(data_set, syntax)[:2000]
    leading = read_leading(data, syntax, WANTED)
    assert leading.problem == ""
    assert leading.sop_instance_uid == data_set.SOPInstanceUID
    assert leading.attributes["Rows"] == "64"
    assert leading.attributes["PatientName"] == "Test^Image"
    assert leading.attributes["InstanceNumber"] == "3"


def test_leading_says_what_is_wrong() -> None:
    data = encoded(image())
    leading = read_leading(data[:200], EXPLICIT_VR_LITTLE_ENDIAN, WANTED)
    assert leading.problem
    assert leading.attributes["Modality"] == "MR"
    assert read_leading(b"garbage" * 50, EXPLICIT_VR_LITTLE_ENDIAN, WANTED).problem
    assert read_leading(b"garbage" * 50, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, WANTED).problem
    assert read_leading(b"", EXPLICIT_VR_LITTLE_ENDIAN, WANTED).problem == ""


def test_leading_takes_little_of_long_values(caplog: pytest.LogCaptureFixture) -> None:
    long = b"1" * 5_000_000
    data = implicit((0x0008, 0x0005), long) + implicit((0x0008, 0x0018), long)
    data += implicit((0x0010, 0x0010), long) + implicit((0x0010, 0x0020), b"ID")
    leading = read_leading(data, IMPLICIT_VR_LITTLE_ENDIAN, WANTED)
    assert len(leading.sop_instance_uid) == 4096
    assert set(leading.attributes) == {"SpecificCharacterSet", "PatientID"}
    assert leading.attributes["PatientID"] == "ID"
    assert max(map(len, caplog.messages), default=0) < 1000


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        # PS3.5 H.3, I.2, J.1, K.2
        ("ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
        ("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        # The first byte of this character is the code of "=".
        ("\\ISO 2022 IR 87", b"De^X=\x1b$B=P\x1b(B^\x1b$B=;\x1b(B", "De^X=出^住"),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            "Hong^Gildong=洪^吉洞",
        ),
        ("no such set", b"Plain^Name", "Plain^Name"),
    ],
)
def test_names_in_their_character_set(charset: str, raw: bytes, text: str) -> None:
    data = explicit((0x0008, 0x0005), b"CS", charset.encode()) + explicit((0x0010, 0x0010), b"PN", raw)
    assert read_leading(data, EXPLICIT_VR_LITTLE_ENDIAN, WANTED).attributes["PatientName"] == text


def test_find_pixel_data_of_a_data_set_cut_short() -> None:
    data = encoded(image())
    before, pixels = find_pixel_data(data[:-100], encoding_of(EXPLICIT_VR_LITTLE_ENDIAN))
    assert pixels is not None
    assert pixels.tag == PIXEL_DATA
    assert pixels.end == len(data)
    assert PIXEL_DATA not in before


def test_inflating_whole_or_not_at_all() -> None:
    packed = deflate(bytes(10_000))
    assert inflate(packed, 1 << 20, whole=True) == bytes(10_000)
    assert inflate(packed, 100) == bytes(100)
    for cut, limit in ((packed, 9_999), (packed[:5], 1 << 20)):
        with pytest.raises(MalformedError):
            inflate(cut, limit, whole=True)


def test_reading_stays_linear() -> None:
    """A hundred thousand tiny elements, a sequence of as many items: seconds would mean quadratic work."""
    many = b"".join(implicit((0x0009, k), b"") for k in range(1 << 16))
    items = implicit((0x0008, 0x1140), implicit(ITEM, b"") * 100_000 + implicit(SEQUENCE_END, b""), UNDEFINED)
    assert len(tags_of(items + many, IMPLICIT_VR_LITTLE_ENDIAN)) == (1 << 16) + 1
