"""What arrives compressed is kept smaller, whatever its fragments look like, and comes back to the byte."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcmpress.codecs.reconstruct import take_jpeg_apart
from dcmpress.codecs.registry import get_codec
from dcmpress.storage import reconstruct
from dcmpress.storage.compress import CodecChoice, CompressJob, CompressResult, compress
from dcmpress.storage.encapsulated import find_encapsulated
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.reconstruct import ENTRY_BYTES, LONGEST_ROW, row_length
from dcmpress.storage.spool import Spool
from tests.codecs.test_reconstruct import jpeg, scene
from tests.codecs.test_restorable import compressed_image, field
from tests.storage.objects import (
    MR_IMAGE,
    SENDER,
    assert_serves,
    blob_files,
    compressed,
    encoded,
    image,
    opened,
    receive,
)

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"


def item(value: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


DELIMITER = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def encapsulated(
    number: int,
    fragments: Sequence[bytes],
    frames: int = 1,
    *,
    table: bytes = b"",
    end: bytes = DELIMITER,
    pixels: NDArray[Any] | None = None,
    **attributes: Any,
) -> tuple[str, bytes]:
    """Return (SOP Instance UID, data set in an encapsulated transfer syntax)."""
    pixels = np.zeros((1, 240, 320), np.uint8) if pixels is None else pixels[:1]
    data_set = image(number, pixels, **attributes)
    if frames > 1:
        data_set.NumberOfFrames = frames
    del data_set.PixelData
    header = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    value = b"".join(map(item, [table, *fragments])) + end
    return str(data_set.SOPInstanceUID), encoded(data_set) + header + value


def even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


PICTURES = [even(jpeg(scene(240, 320, seed=seed, samples=1))) for seed in range(4)]


def offsets(images: Sequence[Sequence[bytes]]) -> bytes:
    found, at = [], 0
    for fragments in images:
        found.append(at)
        at += sum(8 + len(fragment) for fragment in fragments)
    return struct.pack(f"<{len(found)}I", *found)


FRAGMENTED = [cut(picture, 4000) for picture in PICTURES]
ALL = [fragment for fragments in FRAGMENTED for fragment in fragments]


def shorter(instance: tuple[str, bytes]) -> tuple[str, bytes]:
    return instance[0], instance[1][:-800]


LAYOUTS: dict[str, Callable[[], tuple[str, bytes]]] = {
    "one fragment": lambda: encapsulated(1, PICTURES[:1]),
    "several fragments": lambda: encapsulated(1, FRAGMENTED[0]),
    "several frames": lambda: encapsulated(1, PICTURES, 4),
    "an offset table": lambda: encapsulated(1, PICTURES, 4, table=offsets([[p] for p in PICTURES])),
    "fragments and an offset table": lambda: encapsulated(1, ALL, 4, table=offsets(FRAGMENTED)),
    "fragments without an offset table": lambda: encapsulated(1, ALL, 4),
    "an offset table of nonsense": lambda: encapsulated(1, ALL, 4, table=bytes(range(16))),
    "no delimiter": lambda: encapsulated(1, PICTURES[:1], end=b""),
    "bytes after the delimiter": lambda: encapsulated(
        1, PICTURES[:1], end=DELIMITER + b"\xfc\xff\xfc\xffOB\0\0"
    ),
    "cut inside a fragment": lambda: shorter(encapsulated(1, PICTURES, 4)),
    "more frames than fragments": lambda: encapsulated(1, PICTURES, 9),
    "empty fragments between": lambda: encapsulated(1, [PICTURES[0], b"", b"", PICTURES[1]], 4),
    "garbage after the image": lambda: encapsulated(1, [PICTURES[0] + b"\xff\xd9garbage\0"]),
    "one frame that is no image": lambda: encapsulated(1, [*PICTURES[:3], b"\xff\xd8nonsense"], 4),
}


def kept(
    folder: Path,
    instances: Sequence[tuple[str, bytes]],
    codec: str = "interframe",
    syntax: str = JPEG_BASELINE,
    **limits: Any,
) -> tuple[CompressResult, set[str]]:
    """Compress instances into one blob, check that they come back, and return what became of them
    and the codecs of its segments."""
    folder.mkdir(exist_ok=True)
    spool = Spool(folder / "spool", durable=False)
    entries = []
    for uid, data in instances:
        writer = spool.begin(FileMeta(MR_IMAGE, uid, syntax), SENDER)
        writer.write(data)
        entries.append(writer.finish())
    staged = folder / "blob"
    result = compress(CompressJob(entries, str(spool.folder), str(staged), CodecChoice(codec), **limits))
    with InstanceReader(staged) as reader:
        order = [result.order.index(entry.name) for entry in entries]
        assert [reader.read(number) for number in order] == [data for _, data in instances]
        reader.forget_segments()
        last = len(instances) - 1
        assert reader.read(order[last]) == instances[last][1]
        return result, {segment.codec for segment in reader.blob.index.segments}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_fragments_comes_back(tmp_path: Path, layout: str) -> None:
    instance = LAYOUTS[layout]()
    result, codecs = kept(tmp_path, [instance])
    assert codecs == {"reconstruct"}
    assert not result.fallbacks
    assert not result.outdone


UNFIT: dict[str, Callable[[], tuple[str, bytes]]] = {
    "no JPEG": lambda: encapsulated(1, [b"not a picture at all "]),
    "only an offset table": lambda: encapsulated(1, []),
    "an empty fragment": lambda: encapsulated(1, [b""]),
    "no items": lambda: encapsulated(1, [], end=b"\0" * 30),
    "arithmetic coding": lambda: encapsulated(1, [PICTURES[0].replace(b"\xff\xc0", b"\xff\xc9", 1)]),
    "a fragment that is longer than the data set": lambda: encapsulated(
        1, [], end=struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFF0) + PICTURES[0]
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_cannot_be_made_smaller_is_kept_whole(tmp_path: Path, what: str) -> None:
    result, codecs = kept(tmp_path, [UNFIT[what]()])
    assert not codecs
    assert not result.fallbacks


@pytest.mark.parametrize("codec", ["zstd", "store"])
def test_a_rule_that_asks_for_bytes_gets_bytes(tmp_path: Path, codec: str) -> None:
    assert kept(tmp_path, [LAYOUTS["one fragment"]()], codec)[1] == set()


SYNTAXES = {
    "rle": "1.2.840.10008.1.2.5",
    "jpeg-lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
}


def lossless_series(name: str, n: int, **attributes: Any) -> list[tuple[str, bytes]]:
    """Return instances of one slice each, signed samples, losslessly compressed."""
    made = []
    for number in range(1, n + 1):
        pixels = field((40, 50), "int16", 12, seed=5) + np.random.default_rng(number).integers(0, 9, (40, 50))
        data = compressed_image(name, pixels.astype(np.int16))
        made.append(
            encapsulated(number, [even(data)], pixels=pixels[np.newaxis].astype(np.int16), **attributes)
        )
    return made


@pytest.mark.parametrize("name", SYNTAXES)
def test_the_frames_of_a_series_predict_each_other(tmp_path: Path, name: str) -> None:
    instances = lossless_series(name, 9)
    result, codecs = kept(tmp_path / "together", instances, syntax=SYNTAXES[name])
    assert codecs == {"reconstruct"}
    assert not result.fallbacks
    with InstanceReader(tmp_path / "together" / "blob") as reader:
        (segment,) = reader.blob.index.segments
        assert {instance for instance, _ in segment.frames} == set(range(9))
        together = reader.blob.section_sizes(segment.section)[0]
    kept(tmp_path / "alone", instances[:1], syntax=SYNTAXES[name])
    with InstanceReader(tmp_path / "alone" / "blob") as reader:
        assert together < 7 * reader.blob.section_sizes(reader.blob.index.segments[0].section)[0]


@pytest.mark.parametrize("name", SYNTAXES)
def test_an_image_that_is_not_what_it_seems_is_kept_with_the_others(tmp_path: Path, name: str) -> None:
    instances = lossless_series(name, 3)
    uid, data = instances[1]
    instances[1] = uid, data[:-700] + bytes(600) + data[-100:]
    result, _ = kept(tmp_path, instances, syntax=SYNTAXES[name])
    assert not result.fallbacks


def test_all_layouts_in_one_blob(tmp_path: Path) -> None:
    instances = [make() for make in [*LAYOUTS.values(), *UNFIT.values()]]
    named = [(f"{uid}.{k}", data) for k, (uid, data) in enumerate(instances)]
    result, codecs = kept(tmp_path, named)
    assert codecs == {"reconstruct"}
    assert not result.fallbacks


def test_a_long_run_is_cut_into_segments(tmp_path: Path) -> None:
    instance = encapsulated(1, [PICTURES[k % 4] for k in range(40)], 40)
    kept(tmp_path, [instance], segment_bytes=200_000)
    with InstanceReader(tmp_path / "blob") as reader:
        segments = reader.blob.index.segments
        assert len(segments) > 3
        assert {segment.codec for segment in segments} == {"reconstruct"}


def test_still_frames_that_hold_the_same_bytes_cost_nothing(tmp_path: Path) -> None:
    result, _ = kept(tmp_path, [encapsulated(1, PICTURES[:1] * 40, 40)])
    assert not result.outdone
    assert result.size < len(PICTURES[0])


def test_still_frames_of_another_kind_are_kept_as_bytes(tmp_path: Path) -> None:
    data = jpeg(scene(), progressive=True)
    result, _ = kept(tmp_path, [encapsulated(1, [data + bytes(len(data) % 2)] * 40, 40)])
    assert result.outdone
    assert result.size < 2 * len(data)


def test_a_codec_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(reconstruct, "_encode", fail)
    result, codecs = kept(tmp_path, [LAYOUTS["one fragment"]()])
    assert codecs == {"reconstruct"}
    assert result.fallbacks == ["reconstruct failed: RuntimeError('no')"]


def test_an_image_that_breaks_the_codec_does_not_spoil_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = [encapsulated(k + 1, [picture]) for k, picture in enumerate(PICTURES)]
    whole = kept(tmp_path / "whole", instances)[0].size

    def take_apart(data: bytes) -> Any:
        if data == PICTURES[2]:
            raise RuntimeError("no")
        return take_jpeg_apart(data)

    monkeypatch.setattr(reconstruct, "take_jpeg_apart", take_apart)
    frames = encapsulated(5, PICTURES, 4)
    result, codecs = kept(tmp_path / "one", [frames])
    assert codecs == {"reconstruct"}
    assert result.fallbacks == ["image 3 of an instance cannot be taken apart: RuntimeError('no')"]
    assert not result.outdone
    assert result.size < whole + len(PICTURES[2])


def test_images_of_two_sizes_by_turns_are_kept_as_if_each_were_alone(tmp_path: Path) -> None:
    def instance(number: int, rows: int) -> tuple[str, bytes]:
        pixels = scene(rows, 320, samples=1).copy()
        pixels[8 : 9 + 8 * number, 8:24] = 255 - number
        return encapsulated(number, [even(jpeg(pixels))], pixels=np.zeros((1, rows, 320), np.uint8))

    high, low = [instance(k, 240) for k in (1, 3, 5)], [instance(k, 160) for k in (2, 4, 6)]
    sizes = [kept(tmp_path / str(k), one)[0].size for k, one in enumerate((high, low))]
    mixed = [one for pair in zip(high, low, strict=True) for one in pair]
    assert kept(tmp_path / "mixed", mixed)[0].size < sum(sizes)


@pytest.mark.parametrize("codec", ["no-such-codec", "spiht-lossy"])
def test_a_codec_that_cannot_take_samples_loses_nothing(tmp_path: Path, codec: str) -> None:
    result, codecs = kept(tmp_path, [LAYOUTS["one fragment"]()], codec)
    assert not codecs
    assert len(result.fallbacks) == 1


def test_a_rule_may_name_the_codec_itself(tmp_path: Path) -> None:
    assert kept(tmp_path, [LAYOUTS["one fragment"]()], "reconstruct")[1] == {"reconstruct"}
    with pytest.raises(ValueError, match="its own"):
        get_codec("reconstruct", inner="reconstruct")


def test_the_node_keeps_it_and_gives_it_back(tmp_path: Path) -> None:
    uid, data = LAYOUTS["several frames"]()
    with opened(tmp_path / "archive") as archive:
        receive(archive, data, uid, JPEG_BASELINE)
        pipeline = compressed(archive, "interframe")
        assert_serves(archive, {uid: data})
        assert pipeline.counters.fallbacks == 0
        (path,) = blob_files(archive)
        with InstanceReader(path) as reader:
            assert [segment.codec for segment in reader.blob.index.segments] == ["reconstruct"]


def test_icons_and_nested_items_are_not_taken_for_the_image() -> None:
    uid, data = encapsulated(1, PICTURES[:1])
    found = find_encapsulated(data, JPEG_BASELINE)
    assert uid
    assert found is not None
    assert data[found.start :].startswith(struct.pack("<HHI", 0xFFFE, 0xE000, 0))
    assert found.end == len(data)
    assert find_encapsulated(data, "1.2.840.10008.1.2.1") is None


@given(st.integers(200, 1 << 24), st.integers(1, 9))
def test_values_of_one_size_leave_next_to_nothing_over(size: int, n: int) -> None:
    length = row_length([size] * n)
    assert 1 <= length <= LONGEST_ROW
    assert size % length < size // length


@given(st.lists(st.integers(1, 1 << 22), min_size=1, max_size=30))
def test_rows_of_values_of_many_sizes(sizes: list[int]) -> None:
    length = row_length(sizes)
    assert 1 <= length <= LONGEST_ROW
    over = sum(size % length for size in sizes)
    rows = sum(size // length for size in sizes)
    assert over + ENTRY_BYTES * rows <= 3 * ENTRY_BYTES * len(sizes) * max(sizes) ** 0.5 + 3 * len(sizes)
