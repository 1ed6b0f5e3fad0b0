"""What arrives losslessly compressed, and cannot be made again, is kept as samples where a rule says so.

The same pixels in every transfer syntax, a truthful record of what came, and the received bytes wherever anything is
in doubt.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dcmpress.storage import natives, retrieve
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.settling import requested_codec
from dcmpress.storage.commitment import judge
from dcmpress.storage.compress import CodecChoice, CompressJob, CompressResult, compress
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN as EXPLICIT
from dcmpress.storage.errors import ConflictError, ConversionError
from dcmpress.storage.exchange import IncomingBlob, whole_blobs
from dcmpress.storage.exporting import export
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.pipeline import CompressionRule, Pipeline, PipelineSettings
from dcmpress.storage.pixel_exact import FORMATS, by_imagecodecs, by_pydicom, native_form
from dcmpress.storage.rebuild import rebuild_blobs
from dcmpress.storage.received import Form
from dcmpress.storage.recompress import recompress_series
from dcmpress.storage.retrieve import Failed
from dcmpress.storage.spool import Spool
from dcmpress.storage.transcode import convert
from dcmpress.storage.verify import verify
from tests.corpus_files import data_set as file_data_set
from tests.corpus_files import part10_files
from tests.storage.objects import (
    MR_IMAGE,
    SENDER,
    encoded,
    image,
    opened,
    picture,
    receive,
    served,
)
from tests.storage.test_crash import Inline

PREFIX = "1.2.840.10008.1.2.4."
HTJ2K, RPCL, JPEG_XL, JPEG_2000 = PREFIX + "201", PREFIX + "202", PREFIX + "110", PREFIX + "90"
SYNTAXES = (HTJ2K, RPCL, JPEG_XL)
"""Whose bytes none of our encoders makes again."""

FAST = {"effort": "fast"}
BYTE_EXACT = CodecChoice("interframe", FAST)
PIXEL_EXACT = CodecChoice("interframe", FAST, pixel_exact=True)


def still(frames: int = 3, seed: int = 0) -> NDArray[np.uint16]:
    """Return frames that predict each other well: no still-image format is a match for that."""
    noise = np.random.default_rng(seed).integers(0, 3, (frames, 64, 96))
    return (np.repeat(picture(64, 96), frames, 0) + noise).astype(np.uint16)


def of_bytes(pixels: NDArray[np.uint8], **attributes: Any) -> Dataset:
    data_set = image(1, pixels, **attributes)
    value = pixels.tobytes()
    data_set.add_new(0x7FE00010, "OB", value + b"\0" * (len(value) % 2))
    return data_set


def colour(**attributes: Any) -> Dataset:
    grey = still(1) >> 4
    pixels = np.stack([grey, grey + 3, 255 - grey], axis=-1).astype(np.uint8)
    return of_bytes(
        pixels,
        **{"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0} | attributes,
    )


TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
KINDS: dict[str, Callable[[], Dataset]] = {
    "grey": lambda: image(1, still(1), **TWELVE),
    "frames": lambda: image(1, still(), **TWELVE),
    "signed": lambda: image(1, still().astype(np.int16) - 900, **TWELVE),
    "signed words": lambda: image(1, still().astype(np.int16) - 900),
    "bytes": lambda: of_bytes(
        (picture(49, 63) >> 4).astype(np.uint8), PhotometricInterpretation="MONOCHROME1"
    ),
    "colour": colour,
    "a private element after the pixels": lambda: _with(
        image(1, still(), **TWELVE), 0x7FE10010, "LO", "OURS"
    ),
}


def _with(data_set: Dataset, tag: int, vr: str, value: Any) -> Dataset:
    data_set.add_new(tag, vr, value)
    return data_set


def compressed_form(native: bytes, syntax: str) -> bytes:
    """Return a data set in explicit VR with its frames compressed."""
    return b"".join(convert(native, EXPLICIT, syntax).pieces())


@pytest.mark.parametrize("syntax", [*SYNTAXES, JPEG_2000, PREFIX + "70", PREFIX + "80"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_decoders_make_the_data_set_that_was_compressed(kind: str, syntax: str) -> None:
    native = encoded(KINDS[kind]())
    sent = compressed_form(native, syntax)
    form = native_form(sent, syntax)
    for decode in (by_imagecodecs, by_pydicom):
        assert b"".join(form.pieces(sent, decode)) == native


def kept(
    folder: Path, data: bytes, syntax: str, choice: CodecChoice = PIXEL_EXACT
) -> tuple[CompressResult, bytes]:
    """Compress one instance into a blob; check that it says the truth of what it holds, and return that."""
    spool = Spool(folder / "spool", durable=False)
    writer = spool.begin(FileMeta(MR_IMAGE, "1.2.3", syntax), SENDER)
    writer.write(data)
    entry = writer.finish()
    result = compress(CompressJob([entry], str(spool.folder), str(folder / "blob"), choice))
    with InstanceReader(folder / "blob") as reader:
        (instance,) = reader.blob.index.instances
        whole = reader.read(0)
        codecs = {segment.codec for segment in reader.blob.index.segments}
    assert sorted(path.name for path in folder.iterdir()) == ["blob", "spool"]
    if result.forms:
        assert instance.received is not None
        assert instance.received.form == Form(syntax, len(data), hashlib.sha256(data).digest())
        assert instance.transfer_syntax_uid == EXPLICIT
        assert codecs <= {"interframe", "zstd"}
    else:
        assert instance.received is None
        assert whole == data
        assert instance.transfer_syntax_uid == syntax
    whole_form = Form(instance.transfer_syntax_uid, len(whole), hashlib.sha256(whole).digest())
    assert result.forms in ({}, {entry.name: whole_form})
    assert (result.raw_size, result.received_size) == (len(whole), len(data))
    return result, whole


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_blob_holds_it_and_says_what_came(tmp_path: Path, syntax: str) -> None:
    native = encoded(KINDS["frames"]())
    sent = compressed_form(native, syntax)
    result, whole = kept(tmp_path, sent, syntax)
    assert result.forms
    assert whole == native
    assert result.size < 0.8 * len(sent)
    assert not result.fallbacks


@pytest.mark.parametrize("choice", [BYTE_EXACT, CodecChoice("zstd", pixel_exact=True)])
def test_nothing_goes_that_no_rule_lets_go(tmp_path: Path, choice: CodecChoice) -> None:
    sent = compressed_form(encoded(KINDS["frames"]()), HTJ2K)
    assert not kept(tmp_path, sent, HTJ2K, choice)[0].forms


def test_what_gains_nothing_stays_as_it_came(tmp_path: Path) -> None:
    sent = compressed_form(encoded(image(1, picture(96, 128), **TWELVE)), HTJ2K)
    result, _ = kept(tmp_path, sent, HTJ2K, CodecChoice("jpeg-ls", pixel_exact=True))
    assert not result.forms
    assert not result.fallbacks


def test_what_can_come_back_to_the_byte_does(tmp_path: Path) -> None:
    """Lossless JPEG of one instance, HTJ2K of another: the first is taken apart, only the second is kept as samples."""
    native = encoded(KINDS["frames"]())
    spool = Spool(tmp_path / "spool", durable=False)
    sent = {syntax: compressed_form(native, syntax) for syntax in (PREFIX + "70", HTJ2K, EXPLICIT)}
    entries = []
    for number, (syntax, data) in enumerate(sent.items()):
        writer = spool.begin(FileMeta(MR_IMAGE, f"1.2.{number}", syntax), SENDER)
        writer.write(data)
        entries.append(writer.finish())
    result = compress(CompressJob(entries, str(spool.folder), str(tmp_path / "blob"), PIXEL_EXACT))
    assert set(result.forms) == {entries[1].name}
    with InstanceReader(tmp_path / "blob") as reader:
        for entry, data in zip(entries, [sent[PREFIX + "70"], native, native], strict=True):
            assert reader.read(result.order.index(entry.name)) == data


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def us(tag: int, value: int) -> bytes:
    return struct.pack("<HH2sHH", tag >> 16, tag & 0xFFFF, b"US", 2, value)


def sent(data_set: Dataset, syntax: str = HTJ2K) -> bytes:
    return compressed_form(encoded(data_set), syntax)


def frames(**attributes: Any) -> Dataset:
    return image(1, still(), **TWELVE | attributes)


FRAGMENTS = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
WHOLE = sent(frames())


def icon() -> Dataset:
    data_set = frames()
    item = Dataset()
    item.Rows = item.Columns = 2
    item.add_new(0x7FE00010, "OB", struct.pack("<HHI", 0xFFFE, 0xE000, 0))
    item["PixelData"].is_undefined_length = True
    data_set.IconImageSequence = [item]
    return data_set


DOUBTFUL: dict[str, Callable[[], tuple[str, bytes]]] = {
    "a syntax that may be lossy": lambda: (PREFIX + "203", WHOLE),
    "JPEG 2000 that may be lossy": lambda: (PREFIX + "91", sent(frames(), JPEG_2000)),
    "JPEG-LS that may be lossy": lambda: (
        PREFIX + "81",
        sent(frames(), PREFIX + "80").replace(b"\xff\xda\0\x08\1\1\0\0", b"\xff\xda\0\x08\1\1\0\1"),
    ),
    "a lossy image under a lossless syntax": lambda: (JPEG_2000, lossy_wavelet()),
    "lossy JPEG XL under a lossless syntax": lambda: (JPEG_XL, lossy_jpeg_xl()),
    "marked as lossy": lambda: (HTJ2K, sent(frames(LossyImageCompression="01"))),
    "a lossy ratio": lambda: (HTJ2K, sent(frames(LossyImageCompressionRatio="7"))),
    "bits above Bits Stored": lambda: (
        HTJ2K,
        replaced(WHOLE, us(0x00280101, 12), us(0x00280101, 10)).replace(
            us(0x00280102, 11), us(0x00280102, 9)
        ),
    ),
    "another High Bit": lambda: (HTJ2K, replaced(WHOLE, us(0x00280102, 11), us(0x00280102, 15))),
    "no Bits Stored": lambda: (HTJ2K, replaced(WHOLE, us(0x00280101, 12), b"")),
    "signed samples, unsigned attributes": lambda: (
        HTJ2K,
        replaced(sent(KINDS["signed"]()), us(0x00280103, 1), us(0x00280103, 0)),
    ),
    "other rows": lambda: (HTJ2K, replaced(WHOLE, us(0x00280010, 64), us(0x00280010, 63))),
    "rows and columns changed": lambda: (
        HTJ2K,
        replaced(WHOLE, us(0x00280010, 64), us(0x00280010, 96)).replace(
            us(0x00280011, 96), us(0x00280011, 64)
        ),
    ),
    "a palette": lambda: (HTJ2K, sent(frames(PhotometricInterpretation="PALETTE COLOR"))),
    "colours of another space": lambda: (HTJ2K, replaced(sent(colour()), b"YBR_RCT ", b"YBR_FULL")),
    "colours that nothing transformed": lambda: (
        JPEG_XL,
        replaced(sent(colour(), JPEG_XL), b"CS\4\0RGB ", b"CS\x08\0YBR_RCT "),
    ),
    "an overlay in high bits": lambda: (HTJ2K, with_overlay(WHOLE)),
    "an icon that is compressed": lambda: (HTJ2K, sent(icon())),
    "a signature": lambda: (HTJ2K, WHOLE + struct.pack("<HH2sHI", 0xFFFA, 0xFFFA, b"SQ", 0, 0)),
    "a frame too few": lambda: (HTJ2K, replaced(WHOLE, b"IS\2\0003 ", b"IS\2\0004 ")),
    "a frame too many": lambda: (HTJ2K, replaced(WHOLE, b"IS\2\0003 ", b"IS\2\0002 ")),
    "frames without a number": lambda: (HTJ2K, replaced(WHOLE, b"IS\2\0003 ", b"IS\2\000? ")),
    "no delimiter": lambda: (HTJ2K, WHOLE[:-8]),
    "cut short": lambda: (HTJ2K, WHOLE[:-900]),
    "an element twice": lambda: (HTJ2K, replaced(WHOLE, us(0x00280010, 64), 2 * us(0x00280010, 64))),
    "bytes behind": lambda: (HTJ2K, WHOLE + b"\0\0\0"),
    "an image without its end": lambda: (HTJ2K, last_image(lambda image: image[:-2] + b"\0\0")),
    "an image that is damaged": lambda: (
        HTJ2K,
        last_image(lambda image: image[:-60] + bytes(58) + image[-2:]),
    ),
    "an image that is none": lambda: (HTJ2K, last_image(lambda image: bytes(len(image)))),
}


def last_image(change: Callable[[bytes], bytes]) -> bytes:
    ((start, stop),) = native_form(WHOLE, HTJ2K).images[-1]
    return WHOLE[:start] + change(WHOLE[start:stop].rstrip(b"\0")).ljust(stop - start, b"\0") + WHOLE[stop:]


def with_overlay(data: bytes) -> bytes:
    at = data.index(FRAGMENTS)
    return data[:at] + us(0x60000100, 16) + us(0x60000102, 12) + data[at:]


def in_fragments(data: bytes, images: list[bytes]) -> bytes:
    """Return a data set with other compressed images and an empty offset table."""
    items = [b"", *[image + b"\0" * (len(image) % 2) for image in images]]
    packed = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return data[: data.index(FRAGMENTS) + 12] + packed + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def lossy_wavelet() -> bytes:
    images = [
        bytes(imagecodecs.jpeg2k_encode(frame, level=60, reversible=False, codecformat="j2k"))
        for frame in still()
    ]
    return in_fragments(WHOLE, images)


def lossy_jpeg_xl() -> bytes:
    return in_fragments(WHOLE, [bytes(imagecodecs.jpegxl_encode(frame, distance=1.0)) for frame in still()])


@pytest.mark.parametrize("what", DOUBTFUL)
def test_whatever_is_in_doubt_stays_as_it_came(tmp_path: Path, what: str) -> None:
    syntax, data = DOUBTFUL[what]()
    digests = set()
    with suppress(ConversionError):
        digests.add(native_form(data, syntax).digest(data, by_imagecodecs))
        digests.add(native_form(data, syntax).digest(data, by_pydicom))
    assert len(digests) != 1 or what == "an image that is damaged"
    result, _ = kept(tmp_path, data, syntax)
    assert not result.forms


def test_the_images_that_doubts_are_about_would_do_otherwise() -> None:
    for whole in (WHOLE, in_fragments(WHOLE, [WHOLE[a:b] for ((a, b),) in native_form(WHOLE, HTJ2K).images])):
        assert b"".join(native_form(whole, HTJ2K).pieces(whole, by_pydicom)) == encoded(frames())


def test_fragments_and_offset_tables_leave_no_trace() -> None:
    images = [WHOLE[a:b] for ((a, b),) in native_form(WHOLE, HTJ2K).images]
    table = 0x7FE00001
    element = struct.pack("<HH2sHI", table >> 16, table & 0xFFFF, b"OV", 0, 8) + bytes(8)
    plain = in_fragments(WHOLE, images)
    at = plain.index(FRAGMENTS)
    extended = plain[:at] + element + plain[at:]
    one = sent(KINDS["grey"]())
    ((a, b),) = native_form(one, HTJ2K).images[0]
    halves = in_fragments(one, [one[a : a + 2000], one[a + 2000 : b]])
    for data, native in ((extended, frames()), (halves, KINDS["grey"]())):
        assert b"".join(native_form(data, HTJ2K).pieces(data, by_imagecodecs)) == encoded(native)


def test_two_decoders_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(form: Any, image: bytes) -> NDArray[Any]:
        samples = by_pydicom(form, image).copy()
        samples[3, 4] ^= 1
        return samples

    monkeypatch.setattr(natives, "by_pydicom", off_by_one)
    result, _ = kept(tmp_path, WHOLE, HTJ2K)
    assert not result.forms
    assert result.fallbacks == ["two decoders differ: 1 instances are kept as they came"]


def test_every_file_of_the_corpus_is_kept_truly(tmp_path: Path) -> None:
    """Whatever the encoder: the samples that another decoder sees, or the very bytes."""
    for k, path in enumerate(part10_files()):
        meta, data = file_data_set(path)
        if meta.transfer_syntax_uid in FORMATS and len(data) < 500_000:
            folder = tmp_path / str(k)
            folder.mkdir()
            result, whole = kept(folder, data, meta.transfer_syntax_uid)
            if result.forms:
                form = native_form(data, meta.transfer_syntax_uid)
                assert b"".join(form.pieces(data, by_pydicom)) == whole


# In an archive


def pipeline_of(archive: Archive, choice: CodecChoice = PIXEL_EXACT) -> Pipeline:
    pipeline = Pipeline(archive, PipelineSettings(rules=(CompressionRule(choice),)))
    pipeline._pool = Inline()  # type: ignore[assignment]
    return pipeline


def series(syntax: str = HTJ2K, n: int = 3) -> dict[str, tuple[bytes, bytes]]:
    """Return UID -> (data set as sent, the same with native pixel data)."""
    made = {}
    for number in range(1, n + 1):
        data_set = image(number, still(1, seed=number), **TWELVE)
        native = encoded(data_set)
        made[str(data_set.SOPInstanceUID)] = compressed_form(native, syntax), native
    return made


SERIES = series()
FIRST = next(iter(SERIES))


def send(archive: Archive, uid: str = FIRST, syntax: str = HTJ2K) -> str:
    return receive(archive, SERIES[uid][0 if syntax != EXPLICIT else 1], uid, syntax)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """An archive whose series is kept pixel-exact; with a disk cache, which has no use for what came."""
    with opened(tmp_path / "archive", disk_cache_bytes=1 << 30) as made:
        for uid in SERIES:
            assert send(made, uid) == "new"
        pipeline = pipeline_of(made)
        pipeline.drain()
        assert pipeline.counters.raw_bytes == sum(len(data) for data, _ in SERIES.values())
        yield made


def check(archive: Archive) -> None:
    """Check that catalog, blobs and what is served tell the same truth."""
    assert archive.spool.names() == []
    assert not any(archive.disk_cache.folder.glob("*/*"))
    assert [v.problems for v in verify(archive, mark=False) if v.problems] == []
    for uid, (data, native) in SERIES.items():
        (version,) = archive.catalog.versions(uid)
        assert version.received == Form(HTJ2K, len(data), hashlib.sha256(data).digest())
        assert (version.transfer_syntax_uid, version.size) == (EXPLICIT, len(native))
        assert version.sha256 == hashlib.sha256(native).digest()
        assert served(archive, uid) == native
        outgoing = archive.open(uid, [HTJ2K])
        again = b"".join(outgoing.pieces())
        assert outgoing.transfer_syntax_uid == HTJ2K
        assert b"".join(native_form(again, HTJ2K).pieces(again, by_pydicom)) == native
        assert judge(archive, [(MR_IMAGE, uid)], "verified").committed == [(MR_IMAGE, uid)]


def test_the_archive_serves_it_and_says_what_came(archive: Archive) -> None:
    check(archive)
    found = archive.catalog.statistics()
    assert found.pixel_exact == len(SERIES)
    assert found.raw_bytes == sum(len(data) for data, _ in SERIES.values())
    assert found.stored_bytes < found.raw_bytes


@pytest.mark.parametrize("policy", ["keep-both", "reject", "replace"])
@pytest.mark.parametrize("syntax", [HTJ2K, EXPLICIT])
def test_the_same_again_is_a_duplicate(tmp_path: Path, policy: Any, syntax: str) -> None:
    with opened(tmp_path / "archive", on_conflict=policy) as archive:
        for uid in SERIES:
            send(archive, uid)
        pipeline_of(archive).drain()
        assert send(archive, syntax=syntax) == "duplicate"
        check(archive)
        changed = SERIES[FIRST][0].replace(b"Test^Image", b"Test^Other")
        if policy == "reject":
            with pytest.raises(ConflictError):
                receive(archive, changed, FIRST, HTJ2K)
            check(archive)
        else:
            assert receive(archive, changed, FIRST, HTJ2K) == (
                "replaced" if policy == "replace" else "kept both"
            )
            assert served(archive, FIRST) == changed
            older = len(archive.catalog.versions(FIRST)) - 1
            assert older == (policy == "keep-both")
            assert send(archive) == "duplicate" if policy == "keep-both" else "kept both"


def test_import_knows_what_it_has(archive: Archive) -> None:
    for data in SERIES[FIRST]:
        assert archive.keeps(FIRST, len(data), lambda data=data: hashlib.sha256(data).digest())  # type: ignore[misc]
    assert not archive.keeps(FIRST, 7, lambda: bytes(32))


def test_a_damaged_blob_is_healed_by_what_came(archive: Archive) -> None:
    damaged = archive.catalog.versions(FIRST)[0]
    archive.catalog.settling.mark_damaged([damaged.instance_pk], "test")
    assert send(archive) == "healed"
    (version,) = archive.catalog.versions(FIRST)
    assert version.received is None
    assert (version.transfer_syntax_uid, version.size) == (HTJ2K, len(SERIES[FIRST][0]))
    assert served(archive, FIRST) == SERIES[FIRST][0]
    pipeline_of(archive).drain()  # alone it gains nothing by its samples
    assert served(archive, FIRST) == SERIES[FIRST][0]
    assert [v.problems for v in verify(archive, mark=False) if v.problems] == []


def test_a_lost_blob_is_made_good_by_what_comes(archive: Archive) -> None:
    for name in list(archive.blobs.names()):
        archive.blobs.path(name).unlink()
    assert send(archive) == "healed"
    assert served(archive, FIRST) == SERIES[FIRST][0]


def test_the_catalog_is_made_anew(tmp_path: Path, archive: Archive) -> None:
    archive.close()
    for path in (tmp_path / "archive").glob("catalog.sqlite*"):
        path.unlink()
    with opened(tmp_path / "archive") as anew:
        assert [(done.instances, done.problem) for done in rebuild_blobs(anew)] == [(len(SERIES), "")]
        check(anew)
        assert send(anew) == "duplicate"


def test_a_spool_file_that_was_left_behind_goes(tmp_path: Path) -> None:
    with opened(tmp_path / "archive", disk_cache_bytes=1 << 30) as archive:
        for uid in SERIES:
            send(archive, uid)
        keep = {path: path.read_bytes() for path in archive.spool.folder.glob("*.dcm")}
        pipeline_of(archive).drain()
        for path, data in keep.items():
            path.write_bytes(data)
        recovered = archive.recover()
        assert (recovered.entered, recovered.dropped, recovered.problems) == (0, 0, {})
        check(archive)


def test_an_instance_that_changes_while_it_is_fetched(tmp_path: Path) -> None:
    """It was located in the spool; when its turn comes only the samples are left."""
    with opened(tmp_path / "archive") as archive:
        for uid in SERIES:
            send(archive, uid)
        located = [archive.catalog.versions(uid)[0] for uid in SERIES]
        pipeline_of(archive).drain()
        for accepted in ([HTJ2K], [EXPLICIT]):
            for found in archive.retrieve(located, lambda _, accepted=accepted: accepted):  # type: ignore[misc]
                assert not isinstance(found, Failed)
                data = b"".join(found.pieces())
                assert found.transfer_syntax_uid == accepted[0]
                assert found.located.transfer_syntax_uid == EXPLICIT
                if accepted == [EXPLICIT]:
                    assert data == SERIES[found.located.sop_instance_uid][1]
        stored = list(archive.retrieve(located, lambda item: item.transfer_syntax_uid))
        assert {f.transfer_syntax_uid for f in stored if isinstance(f, retrieve.Outgoing)} == {EXPLICIT}
        (none,) = archive.retrieve(
            located[:1], lambda item: [HTJ2K] if item.transfer_syntax_uid == HTJ2K else []
        )
        assert isinstance(none, Failed)


def test_export_writes_what_is_kept(tmp_path: Path, archive: Archive) -> None:
    located = [archive.catalog.versions(uid)[0] for uid in SERIES]
    for _ in range(2):
        written = list(export(archive, located, tmp_path / "out"))
        assert all(not item.problem for item in written)
    assert all(item.existed for item in written)
    assert {path.read_bytes()[-8000:] for path in (tmp_path / "out").rglob("*.dcm")} == {
        native[-8000:] for _, native in SERIES.values()
    }


def recompressed(archive: Archive, choice: CodecChoice) -> None:
    from datetime import UTC, datetime, timedelta

    before = datetime.now(UTC) + timedelta(days=1)
    requested = requested_codec(choice.codec, choice.parameters, pixel_exact=choice.pixel_exact)
    for one in archive.catalog.settling.stored_otherwise(requested, before):
        workers: Any = Inline()
        for done in recompress_series(archive, one, choice, before, PipelineSettings(), workers):
            assert not done.problem


def test_what_lies_in_a_blob_becomes_pixel_exact(tmp_path: Path) -> None:
    with opened(tmp_path / "archive") as archive:
        for uid in SERIES:
            send(archive, uid)
        pipeline_of(archive, BYTE_EXACT).drain()
        assert served(archive, FIRST) == SERIES[FIRST][0]
        recompressed(archive, PIXEL_EXACT)
        check(archive)


def test_the_record_outlives_a_recompression(tmp_path: Path) -> None:
    with opened(tmp_path / "archive") as archive:
        for uid in SERIES:
            send(archive, uid)
        pipeline_of(archive, CodecChoice("jpeg-2000", pixel_exact=True)).drain()
        first = list(archive.blobs.names())
        check_kept = archive.catalog.statistics().pixel_exact
        recompressed(archive, BYTE_EXACT)
        assert list(archive.blobs.names()) != first
        assert archive.catalog.statistics().pixel_exact == check_kept == len(SERIES)
        check(archive)


def test_a_blob_goes_to_another_node_with_its_record(tmp_path: Path, archive: Archive) -> None:
    located = [archive.catalog.versions(uid)[0] for uid in SERIES]
    (blob,) = whole_blobs(archive, located)
    for name, known in (("empty", []), ("holds one", [FIRST])):
        with opened(tmp_path / name) as other:
            for uid in known:
                send(other, uid)
            incoming = IncomingBlob(other)
            incoming.write(blob.path.read_bytes())
            taken = incoming.commit(SENDER)
            incoming.close()
            assert taken.adopted == (not known)
            if known:
                assert served(other, FIRST) == SERIES[FIRST][0]
                assert len(other.catalog.versions(FIRST)) == 1
                others = [uid for uid in SERIES if uid != FIRST]
                assert [served(other, uid) for uid in others] == [SERIES[uid][1] for uid in others]
            else:
                check(other)
