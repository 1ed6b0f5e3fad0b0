"""The blob file: every byte counts, and nothing that it says is believed unchecked."""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dcmpress.storage import blob as blob_module
from dcmpress.storage.blob import DATA, FRAMES, SHELLS, BlobReader, BlobWriter
from dcmpress.storage.blob_index import BlobIndex
from dcmpress.storage.compress import CodecChoice, CompressJob, compress
from dcmpress.storage.errors import BlobFormatError, DamagedError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.spool import Spool, SpoolEntry
from tests.storage.objects import MR_IMAGE, SENDER, encoded, image, picture

EMPTY = BlobIndex("test", "2026-01-01T00:00:00+00:00")


@pytest.fixture
def blob(tmp_path: Path) -> tuple[Path, list[bytes]]:
    """A blob with three images and a data set without one; and what it holds, in its order."""
    return make_blob(tmp_path, "zstd")


def make_blob(folder: Path, codec: str) -> tuple[Path, list[bytes]]:
    sent = [encoded(image(number, picture(12, 16, seed=number))) for number in (1, 2, 3)]
    report = image(4)
    del report.PixelData
    sent.append(encoded(report))
    spool = Spool(folder / "spool")
    entries = [in_spool(spool, data, f"1.2.{k}") for k, data in enumerate(sent)]
    path = folder / "test.dcmb"
    result = compress(CompressJob(entries, str(spool.folder), str(path), CodecChoice(codec)))
    by_name = {entry.name: data for entry, data in zip(entries, sent, strict=True)}
    return path, [by_name[name] for name in result.order]


def in_spool(spool: Spool, data: bytes, uid: str, syntax: str = "1.2.840.10008.1.2.1") -> SpoolEntry:
    writer = spool.begin(FileMeta(MR_IMAGE, uid, syntax), SENDER)
    writer.write(data)
    return writer.finish()


def read_all(path: Path) -> list[bytes]:
    with InstanceReader(path) as reader:
        return [reader.read(k) for k in range(len(reader.blob.index.instances))]


def check_everything(path: Path) -> None:
    """Read every section and every instance."""
    with InstanceReader(path) as reader:
        for number in range(reader.blob.n_sections):
            reader.blob.section(number)
        for number in range(len(reader.blob.index.instances)):
            reader.read(number)


def test_instances_come_back(blob: tuple[Path, list[bytes]]) -> None:
    path, expected = blob
    assert read_all(path) == expected


def test_every_flipped_byte_is_noticed(blob: tuple[Path, list[bytes]]) -> None:
    path, _ = blob
    whole = path.read_bytes()
    assert len(whole) < 20_000
    damaged = path.with_suffix(".bad")
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        damaged.write_bytes(changed)
        with pytest.raises(DamagedError):
            check_everything(damaged)


def test_every_truncation_is_noticed(blob: tuple[Path, list[bytes]]) -> None:
    path, _ = blob
    whole = path.read_bytes()
    damaged = path.with_suffix(".bad")
    for length in [*range(200), *range(200, len(whole), 37), len(whole) - 1]:
        damaged.write_bytes(whole[:length])
        with pytest.raises(BlobFormatError):
            BlobReader(damaged)
    damaged.write_bytes(whole + b"\0")
    with pytest.raises(BlobFormatError):
        BlobReader(damaged)


def test_a_damaged_segment_leaves_the_other_instances(tmp_path: Path) -> None:
    path, expected = make_blob(tmp_path, "store")
    with BlobReader(path) as reader:
        segment = reader.index.segments[0]
        whole = [k for k, i in enumerate(reader.index.instances) if not i.n_frames]
        stored = reader.section(segment.section)
    data = path.read_bytes()
    at = data.index(stored) + len(stored) // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with InstanceReader(path) as reader:
        for number in range(len(expected)):
            if number in whole:
                assert reader.read(number) == expected[number]
            else:
                with pytest.raises(DamagedError):
                    reader.read(number)


def test_a_newer_version_is_refused(blob: tuple[Path, list[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    path = blob[0].with_name("newer")
    monkeypatch.setattr(blob_module, "VERSION", 2)
    with closing(BlobWriter(path)) as writer:
        writer.finish(EMPTY)
    monkeypatch.undo()
    with pytest.raises(BlobFormatError, match="version 2"):
        BlobReader(path)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Return a copy of a blob whose checksums all hold, with another index."""
    target = path.with_name("lies")
    target.unlink(missing_ok=True)
    with BlobReader(path) as reader, closing(BlobWriter(target)) as writer:
        for number in range(reader.n_sections - 1):
            kind = reader.section_kind(number)
            level = 3 if kind in (SHELLS, DATA) else None
            writer.add(kind, reader.section(number), level=level)
        tree = json.loads(reader.index.to_json())
        change(tree)
        index = BlobIndex("", "")
        object.__setattr__(index, "to_json", lambda: json.dumps(tree).encode())
        writer.finish(index)
    return target


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no instances": lambda t: t.pop("instances"),
    "instances is a number": lambda t: t.update(instances=5),
    "an instance is text": lambda t: t["instances"].__setitem__(0, "x"),
    "an instance without size": lambda t: t["instances"][0].pop("size"),
    "negative offset": lambda t: t["instances"][0].update(offset=-1),
    "fractional offset": lambda t: t["instances"][0].update(offset=0.5),
    "offset beyond the section": lambda t: t["instances"][0].update(offset=1 << 40),
    "true as an offset": lambda t: t["instances"][0].update(offset=True),
    "head too long": lambda t: t["instances"][0].update(head=t["instances"][0]["head"] + 1),
    "negative tail": lambda t: t["instances"][0].update(tail=-5),
    "size as text": lambda t: t["instances"][0].update(size="12"),
    "huge size": lambda t: t["instances"][0].update(size=1 << 70),
    "another size": lambda t: t["instances"][0].update(size=3),
    "no such section": lambda t: t["instances"][0].update(section=99),
    "section of frames": lambda t: t["instances"][0].update(section=t["segments"][0]["section"]),
    "no pixel format": lambda t: t["instances"][-1].update(pixel_format=7),
    "negative pixel format": lambda t: t["instances"][-1].update(pixel_format=-1),
    "digest cut": lambda t: t["instances"][0].update(sha256="00"),
    "digest a number": lambda t: t["instances"][0].update(sha256=1),
    "no time": lambda t: t["instances"][0].update(received_at="yesterday"),
    "no time zone": lambda t: t["instances"][0].update(received_at="2026-01-01T00:00:00"),
    "UID a list": lambda t: t["instances"][0].update(sop_instance_uid=[]),
    "million frames": lambda t: t["instances"][0].update(n_frames=10**6),
    "negative rows": lambda t: t["pixel_formats"][0].update(rows=-1),
    "rows of text": lambda t: t["pixel_formats"][0].update(rows="32"),
    "rows beyond": lambda t: t["pixel_formats"][0].update(rows=1 << 30),
    "no samples": lambda t: t["pixel_formats"][0].update(samples=0),
    "seven bits": lambda t: t["pixel_formats"][0].update(bits_allocated=7),
    "signed is a number": lambda t: t["pixel_formats"][0].update(signed=2),
    "segment in shells": lambda t: t["segments"][0].update(section=t["instances"][0]["section"]),
    "segment nowhere": lambda t: t["segments"][0].update(section=-1),
    "frame of nobody": lambda t: t["segments"][0]["frames"].__setitem__(0, [99, 0]),
    "negative instance": lambda t: t["segments"][0]["frames"].__setitem__(0, [-1, 0]),
    "negative frame": lambda t: t["segments"][0]["frames"].__setitem__(0, [0, -1]),
    "frame is a number": lambda t: t["segments"][0]["frames"].__setitem__(0, 3),
    "lists of another length": lambda t: t["segments"][0]["references"].pop(),
    "reference forwards": lambda t: t["segments"][0]["references"].__setitem__(0, 1),
    "reference below": lambda t: t["segments"][0]["references"].__setitem__(0, -2),
    "shift of text": lambda t: t["segments"][0]["shifts"].__setitem__(0, ["a", 0]),
    "negative frame offset": lambda t: t["segments"][0].update(offsets=[-1]),
    "parameters are a list": lambda t: t["segments"][0].update(parameters=[1]),
    "codec is a list": lambda t: t["segments"][0].update(codec=[]),
    "no frames": lambda t: t["segments"][0].update(frames=[], references=[], shifts=[]),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_refused(blob: tuple[Path, list[bytes]], lie: str) -> None:
    path = rewritten(blob[0], LIES[lie])
    with pytest.raises(BlobFormatError):
        BlobReader(path)


INCOMPLETE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "segment missing": lambda t: t.update(segments=[]),
    "frames exchanged": lambda t: t["segments"][0]["frames"].reverse(),
    "frame twice": lambda t: t["segments"][0]["frames"].__setitem__(0, t["segments"][0]["frames"][1]),
    "no such codec": lambda t: t["segments"][0].update(codec="no such"),
    "another codec": lambda t: t["segments"][0].update(codec="jpeg-ls", parameters={}),
    "no such parameter": lambda t: t["segments"][0].update(parameters={"x": 1}),
    "absurd parameter": lambda t: t["segments"][0].update(parameters={"level": "high"}),
    "another digest": lambda t: t["instances"][0].update(sha256="0" * 64),
    "fewer rows, more columns": lambda t: t["pixel_formats"][0].update(rows=16, columns=12),
    "shell a byte later": lambda t: t["instances"][0].update(offset=1),
}


@pytest.mark.parametrize("lie", INCOMPLETE)
def test_what_an_index_hides_is_not_served_wrong(blob: tuple[Path, list[bytes]], lie: str) -> None:
    path, expected = rewritten(blob[0], INCOMPLETE[lie]), blob[1]
    refused = 0
    with InstanceReader(path) as reader:
        for number, data in enumerate(expected):
            try:
                assert reader.read(number) == data
            except DamagedError:
                refused += 1
    assert refused


def test_keys_of_a_later_version_are_left_aside(blob: tuple[Path, list[bytes]]) -> None:
    def add(tree: dict[str, Any]) -> None:
        tree["instances"][0]["later"] = {"a": 1}
        tree["later"] = []

    assert read_all(rewritten(blob[0], add)) == blob[1]


def test_an_index_nested_without_end_is_refused() -> None:
    with pytest.raises(BlobFormatError):
        BlobIndex.from_json(b"[" * 200_000)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 3_000_000])
@pytest.mark.parametrize("noise", [False, True])
def test_sections_in_pieces_are_sections(tmp_path: Path, size: int, noise: bool) -> None:
    payload = bytes(size) if not noise else hashlib.shake_128(b"x").digest(size)
    path = tmp_path / "blob"
    with closing(BlobWriter(path)) as writer:
        assert writer.add_pieces(DATA, lambda: pieces(payload), size, level=3) == 0
        assert writer.add(FRAMES, payload) == 1
        writer.finish(EMPTY)
    with BlobReader(path) as reader:
        assert reader.section(0) == payload
        assert reader.section(1) == payload
        stored, whole = reader.section_sizes(0)
        assert whole == size
        assert stored < size or noise or size < 16
        assert stored <= size
        for start, stop in ((0, size), (size // 3, size), (size // 3, size // 2), (size, size)):
            assert b"".join(reader.pieces(0, start, stop)) == payload[start:stop]


def pieces(payload: bytes) -> Any:
    return (payload[at : at + 100_000] for at in range(0, len(payload), 100_000))


def test_noise_is_given_up_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_module, "_TRIAL", 200_000)
    payload = hashlib.shake_128(b"y").digest(2_000_000)
    taken = []

    def counted() -> Any:
        taken.append(0)
        for piece in pieces(payload):
            taken[-1] += len(piece)
            yield piece

    path = tmp_path / "blob"
    with closing(BlobWriter(path)) as writer:
        writer.add_pieces(DATA, counted, len(payload), level=3)
        writer.finish(EMPTY)
    assert taken[0] < len(payload) / 2
    assert taken[1] == len(payload)
    with BlobReader(path) as reader:
        assert reader.section(0) == payload


def test_a_bomb_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "blob"
    with closing(BlobWriter(path)) as writer:
        writer.add(DATA, bytes(1 << 20), level=3)
        writer.finish(EMPTY)
    monkeypatch.setattr(blob_module, "LARGEST_WHOLE", 1 << 16)
    with BlobReader(path) as reader, pytest.raises(BlobFormatError, match="too large"):
        reader.section(0)


def test_a_section_longer_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    with closing(BlobWriter(path)) as writer:
        writer.add(DATA, bytes(5000), level=3)
        writer.finish(EMPTY)
    data = bytearray(path.read_bytes())
    fields = blob_module._SECTION.unpack_from(data, 64)
    data[64:128] = blob_module._sealed(blob_module._SECTION, *fields[:3], 4000, *fields[4:6])
    path.write_bytes(data)
    with BlobReader(path) as reader, pytest.raises(DamagedError):
        reader.section(0)
