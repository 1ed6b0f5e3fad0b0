"""Senders that break the standard: what they send is kept and served to the byte, or refused with its status.

docs/robustness.md lists the same cases; the data sets are built byte by byte, as no library writes them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.corpus_files import PROJECT
from tests.nodes import Node
from tests.scp.receivers import get, image_level, register_classes
from tests.scp.wire import CT, EXPLICIT, IMPLICIT, MR, VERIFICATION, Wire, command_set, found

LONG_FORM = (b"OB", b"OW", b"SQ", b"UN", b"UT")
UNDEFINED = 0xFFFFFFFF
SIZE = 24
PRIVATE_CLASS = "1.3.46.670589.5.0.3"


def e(tag: int, vr: bytes, value: bytes = b"", length: int | None = None) -> bytes:
    """Return an element in explicit VR little endian, as odd or as lying as `value` and `length` are."""
    size = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in LONG_FORM:
        return head + struct.pack("<HI", 0, size) + value
    return head + struct.pack("<H", size) + value


def i(tag: int, value: bytes = b"", length: int | None = None) -> bytes:
    """Return an element in implicit VR little endian."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def even(text: bytes, pad: bytes = b"\0") -> bytes:
    return text + pad * (len(text) % 2)


PIXELS = np.random.default_rng(5).integers(0, 4096, (SIZE, SIZE), dtype="<u2").tobytes()
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

Elements = dict[int, bytes]
"""Tag -> whole element."""


def ordinary(uid: str, sop_class: str = MR) -> Elements:
    """Return the elements of an image as it should be."""
    us = struct.Struct("<H").pack
    return {
        0x00080005: e(0x00080005, b"CS", b"ISO_IR 100"),
        0x00080016: e(0x00080016, b"UI", even(sop_class.encode())),
        0x00080018: e(0x00080018, b"UI", even(uid.encode())),
        0x00080020: e(0x00080020, b"DA", b"20240102"),
        0x00080060: e(0x00080060, b"CS", b"MR"),
        0x00100010: e(0x00100010, b"PN", b"Odd^Sender"),
        0x00100020: e(0x00100020, b"LO", b"ODD1"),
        0x0020000D: e(0x0020000D, b"UI", even(b"1.2.826.0.1.3680043.8.498.77")),
        0x0020000E: e(0x0020000E, b"UI", even(b"1.2.826.0.1.3680043.8.498.77.1")),
        0x00200013: e(0x00200013, b"IS", b"1 "),
        0x00280002: e(0x00280002, b"US", us(1)),
        0x00280004: e(0x00280004, b"CS", b"MONOCHROME2 "),
        0x00280010: e(0x00280010, b"US", us(SIZE)),
        0x00280011: e(0x00280011, b"US", us(SIZE)),
        0x00280100: e(0x00280100, b"US", us(16)),
        0x00280101: e(0x00280101, b"US", us(12)),
        0x00280102: e(0x00280102, b"US", us(11)),
        0x00280103: e(0x00280103, b"US", us(0)),
        0x7FE00010: e(0x7FE00010, b"OW", PIXELS),
    }


@dataclass(frozen=True)
class Case:
    """One way to break the standard."""

    name: str
    """As docs/robustness.md has it."""
    data: bytes
    uid: str
    syntax: str = EXPLICIT
    sop_class: str = MR
    converts: bool = True
    """Whether a receiver that takes only the other native syntax gets it."""


def joined(elements: Elements, *changes: bytes, without: tuple[int, ...] = (), after: bytes = b"") -> bytes:
    """Return the data set with elements exchanged or added (by their tags), left out, or put at the end."""
    changed = dict(elements)
    for change in changes:
        group, number = struct.unpack_from("<HH", change)
        changed[group << 16 | number] = change
    return b"".join(changed[tag] for tag in sorted(changed) if tag not in without) + after


def cases() -> Iterator[Case]:
    """Yield every case that is stored."""
    count = 0

    def new_uid() -> str:
        nonlocal count
        count += 1
        return f"1.2.826.0.1.3680043.8.498.77.1.{count}"

    def case(name: str, *changes: bytes, converts: bool = True, **more: object) -> Case:
        uid = new_uid()
        return Case(name, joined(ordinary(uid), *changes, **more), uid, converts=converts)  # type: ignore[arg-type]

    lengths = [e(group << 16, b"UL", struct.pack("<I", 4711)) for group in (8, 0x10, 0x20, 0x28, 0x7FE0)]
    yield case("group lengths, all of them wrong", *lengths)
    yield case("a VR that does not exist (`XX`)", e(0x00181030, b"XX", b"PROT"), converts=False)
    yield case("a VR of ACR-NEMA (`AN`)", e(0x00181030, b"AN", b"PROT"), converts=False)
    yield case(
        "wrong VR: UIDs as `LO`, Rows as `SS`, patient's name as `UN`",
        e(0x0020000D, b"LO", b"1.2.826.0.1.3680043.8.498.77"),
        e(0x00280010, b"SS", struct.pack("<h", SIZE)),
        e(0x00100010, b"UN", b"Odd^Sender"),
    )
    yield case("wrong VR: 16-bit pixel data as `OB`", e(0x7FE00010, b"OB", PIXELS))
    yield case("wrong VR: pixel data as `UN`", e(0x7FE00010, b"UN", PIXELS))
    yield case("odd-length text values", e(0x00100020, b"LO", b"ODD"), e(0x00081030, b"LO", b"chest"))
    yield case("odd-length pixel data, an odd-length data set", e(0x7FE00010, b"OW", PIXELS + b"\x55"))
    yield case("no Study, Series or patient", without=(0x0020000D, 0x0020000E, 0x00100010, 0x00100020))
    yield case("no SOP UIDs in the data set", without=(0x00080016, 0x00080018))
    yield case("no Rows", without=(0x00280010,))
    yield case("no Modality, no Bits Allocated", without=(0x00080060, 0x00280100))
    yield case("no pixel data", without=(0x7FE00010,))
    yield case("pixel data shorter than the rows say", e(0x7FE00010, b"OW", PIXELS[:-100]))
    yield case("pixel data longer than the rows say", e(0x7FE00010, b"OW", PIXELS + bytes(100)))
    yield case(
        "UTF-8 text that is declared as Latin 1",
        e(0x00100010, b"PN", even("Müller^Jörg".encode(), b" ")),
    )
    yield case(
        "Latin 1 and ISO 2022 Japanese in one data set that declares neither",
        e(0x00100010, b"PN", even(b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", b" ")),
        e(0x00081030, b"LO", b"Th\xf6rax "),
        without=(0x00080005,),
    )
    yield case("a character set that does not exist", e(0x00080005, b"CS", b"KLINGON "))
    yield case("UIDs with leading zeros", e(0x0020000D, b"UI", even(b"1.2.0826.00.01.77")))
    yield case("UIDs padded with spaces", e(0x0020000D, b"UI", b"1.2.826.0.1.3680043.8.498.77    "))
    for name, odd in (
        ("a SOP Instance UID with leading zeros", "1.02.0003.0"),
        ("a SOP Instance UID with letters", "1.2.abc.DEF"),
        ("a SOP Instance UID that is a word", "REM SAMPLES 1"),
    ):
        yield Case(name, joined(ordinary(odd)), odd)
    twice = new_uid()
    yield Case(
        "an element twice, with two values (queries see the first, a conversion has the last)",
        joined(ordinary(twice), e(0x00100020, b"LO", b"ODD1") + e(0x00100020, b"LO", b"ODD2")),
        twice,
    )
    yield case("pixel data twice (a conversion has the last)", after=e(0x7FE00010, b"OW", PIXELS[::-1]))
    yield case("elements out of order", after=e(0x00081030, b"LO", b"late") + e(0x00100040, b"CS", b"O "))
    fragments = i(ITEM, b"", 0) + i(ITEM, PIXELS[:200]) + i(ITEM, PIXELS[200:]) + i(SEQUENCE_END)
    yield case(
        "fragments in a native syntax",
        e(0x7FE00010, b"OB", fragments, UNDEFINED),
        converts=False,
    )
    yield case(
        "native pixel data of undefined length, without items",
        e(0x7FE00010, b"OW", PIXELS + i(SEQUENCE_END), UNDEFINED),
        converts=False,
    )
    yield case(
        "an item that is longer than its sequence",
        e(0x00081140, b"SQ", i(ITEM, e(0x00081150, b"UI", b"1.2\0"), 4000)),
    )
    yield case(
        "a sequence that nothing ends",
        e(0x00081140, b"SQ", i(ITEM, e(0x00081150, b"UI", b"1.2\0"), UNDEFINED), UNDEFINED),
        converts=False,
    )
    yield case(
        "a private sequence as `UN`, implicit VR inside",
        e(
            0x00291001,
            b"UN",
            i(ITEM, i(0x00080060, b"MR"), UNDEFINED) + i(ITEM_END) + i(SEQUENCE_END),
            UNDEFINED,
        ),
    )
    yield case("private elements without a private creator", e(0x00291001, b"LO", b"mine"))
    implicit = new_uid()
    yield Case(
        "implicit VR bytes under explicit VR",
        i(0x00080016, even(MR.encode())) + i(0x00080018, even(implicit.encode())) + i(0x00100020, b"ODD1"),
        implicit,
        converts=False,
    )
    yield case("group 0002 in the data set", e(0x00020010, b"UI", even(EXPLICIT.encode())))
    private = new_uid()
    yield Case(
        "a private SOP class", joined(ordinary(private, PRIVATE_CLASS)), private, sop_class=PRIVATE_CLASS
    )
    trailing = new_uid()
    padded = joined(ordinary(trailing)) + bytes(6)
    yield Case("bytes after the last element", padded, trailing, converts=False)


CASES = list(cases())


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("odd")) as running:
        for case in CASES:
            with Wire(running.port) as wire:
                wire.associate([(case.sop_class, [case.syntax])])
                assert wire.store(1, case.sop_class, case.uid, case.data) == 0, case.name
                wire.release()
        yield running


def served(node: Node, case: Case, syntax: str) -> bytes | None:
    register_classes([(case.sop_class, syntax)])
    return get(node.port, [(case.sop_class, syntax)], image_level([case.uid])).data_sets.get(case.uid)


@pytest.mark.parametrize("settled", [False, True], ids=["spooled", "settled"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_stored_and_served_exactly(node: Node, case: Case, settled: bool) -> None:
    if settled:
        node.drained()
    assert served(node, case, case.syntax) == case.data + b"\0" * (len(case.data) % 2)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_converted_or_counted_as_failed(node: Node, case: Case) -> None:
    """A receiver that does not take the syntax gets a data set with all its samples, or a failed instance."""
    converted = served(node, case, IMPLICIT)
    assert (converted is not None) == case.converts
    if converted is not None and PIXELS in case.data:
        assert PIXELS in converted or PIXELS[::-1] in converted


def test_all_are_found_and_whole(node: Node) -> None:
    node.drained()
    assert set(found(node.port)) == {case.uid for case in CASES}
    node.command("verify")


@dataclass(frozen=True)
class Refusal:
    """A request that is refused, and the status of the response."""

    name: str
    status: int
    uid: str = "1.2.826.0.1.3680043.8.498.78.1"
    sop_class: str = MR
    context: str = MR
    elements: bytes | None = joined(ordinary("1.2.826.0.1.3680043.8.498.78.1"))


REFUSALS = [
    Refusal("no SOP Instance UID in the request", 0x0117, uid=""),
    Refusal("a SOP Instance UID of more than 64 characters", 0x0117, uid="1." * 32 + "1"),
    Refusal("a SOP Instance UID with a backslash", 0x0117, uid="1.2\\1.3"),
    Refusal("the data set names another SOP instance", 0xA900, uid="1.2.3"),
    Refusal("the data set names another SOP class", 0xA900, sop_class=CT),
    Refusal("no data set", 0xC000, elements=None),
    Refusal("C-STORE in a context of another service", 0x0122, context=VERIFICATION),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_refused_with_the_status_of_the_standard(node: Node, refusal: Refusal) -> None:
    before = found(node.port)
    with Wire(node.port) as wire:
        syntax = IMPLICIT if refusal.context == VERIFICATION else EXPLICIT
        wire.associate([(refusal.context, [syntax])])
        command: dict[int, int | str] = {2: refusal.sop_class, 0x100: 1, 0x110: 1, 0x700: 0}
        command[0x800] = 0x101 if refusal.elements is None else 1
        command[0x1000] = refusal.uid
        wire.send(wire.message(1, command_set(command), refusal.elements))
        assert wire.status() == refusal.status
        wire.release()
    assert found(node.port) == before


def file_of(elements: bytes, preamble: bytes = bytes(128), meta: bytes | None = None) -> bytes:
    """Return a file; `meta` None: what group 0002 must have."""
    if meta is None:
        meta = e(0x00020010, b"UI", even(EXPLICIT.encode()))
        meta = e(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta
    return preamble + b"DICM" + meta + elements


def file_cases() -> Iterator[tuple[str, bytes, str, bytes]]:
    """Yield (name, file, SOP Instance UID, data set in it)."""
    count = 0

    def content() -> tuple[str, bytes]:
        nonlocal count
        count += 1
        uid = f"1.2.826.0.1.3680043.8.498.79.{count}"
        return uid, joined(ordinary(uid))

    uid, data = content()
    yield (
        "preamble: the head of a TIFF file",
        file_of(data, b"II*\0\x08\0\0\0".ljust(128, b"\x5a")),
        uid,
        data,
    )
    uid, data = content()
    yield "preamble: `DICM` in it", file_of(data, b"DICM" * 32), uid, data
    uid, data = content()
    yield "no preamble", file_of(data, b""), uid, data
    uid, data = content()
    yield "no preamble, no file meta information", data, uid, data
    uid, data = content()
    meta = e(0x00020010, b"UI", even(EXPLICIT.encode()))
    yield (
        "a wrong group length of group 0002",
        file_of(data, meta=e(0x00020000, b"UL", struct.pack("<I", 7)) + meta),
        uid,
        data,
    )
    uid, data = content()
    yield (
        "file meta information without a transfer syntax",
        file_of(data, meta=e(0x00020002, b"UI", even(MR.encode()))),
        uid,
        data,
    )
    uid, data = content()
    lying = e(0x00020003, b"UI", b"1.9.9\0") + e(0x00020010, b"UI", even(EXPLICIT.encode()))
    yield "file meta information that names another instance", file_of(data, meta=lying), uid, data


FILES = list(file_cases())


def test_members_of_a_file_set(node: Node, tmp_path: Path) -> None:
    """`import` takes what is there, byte for byte, whatever stands before the data set."""
    for number, (_, file, _, _) in enumerate(FILES):
        (tmp_path / f"IM{number}").write_bytes(file)
    directory = e(0x00020002, b"UI", b"1.2.840.10008.1.3.10") + e(0x00020003, b"UI", b"1.2.3\0")
    directory += e(0x00020010, b"UI", even(EXPLICIT.encode()))
    (tmp_path / "DICOMDIR").write_bytes(file_of(e(0x00041130, b"CS", b"SET "), meta=directory))
    (tmp_path / "AUTORUN.INF").write_bytes(b"[autorun]\r\nopen=viewer.exe\r\n")
    node.command("import", tmp_path)
    for name, _, uid, data in FILES:
        got = served(node, Case(name, data, uid), EXPLICIT)
        assert got == data, name


def test_the_document_lists_every_case() -> None:
    document = (PROJECT / "docs" / "robustness.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in document.splitlines() if "|" in line
    ]
    listed = {row[0]: row[1] for row in rows}
    for case in CASES:
        assert listed[case.name] == ("yes" if case.converts else "no: failed sub-operation"), case.name
    for refusal in REFUSALS:
        assert listed[refusal.name] == f"{refusal.status:04X}", refusal.name
    for name, *_ in FILES:
        assert name in listed
