"""The pipeline: a codec may do its worst, and nothing is lost."""

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dcmpress.codecs.registry import codec_class
from dcmpress.storage import pipeline as pipeline_module
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.settling import requested_codec
from dcmpress.storage.compress import CodecChoice, CompressJob, CompressResult, compress
from dcmpress.storage.errors import NoSpaceError
from dcmpress.storage.pipeline import CompressionRule, Pipeline, PipelineSettings
from dcmpress.storage.recompress import recompress_series
from dcmpress.storage.verify import verify
from dcmpress.storage.workers import Workers
from tests.storage.objects import (
    assert_serves,
    blob_files,
    compressed,
    encoded,
    image,
    open_archive,
    receive,
    receive_series,
    served,
)
from tests.storage.test_crash import Inline

CODECS = '''
import os, signal
from dataclasses import dataclass
from typing import ClassVar
from dcmpress.codecs.standard import JpegLsCodec

@dataclass(frozen=True)
class Bad(JpegLsCodec):
    """Breaks in the way that its name says."""
    codec_id: ClassVar[str] = "bad"

class Raises(Bad):
    def encode(self, frames, references=None, *, shifts=None):
        raise RuntimeError("encode broke")

class ReturnsNothing(Bad):
    def encode(self, frames, references=None, *, shifts=None):
        return None

class ReturnsGarbage(Bad):
    def encode(self, frames, references=None, *, shifts=None):
        return b"garbage"

class OddParameters(Bad):
    def parameters(self):
        return {"x": object()}

class OddOffsets(Bad):
    def frame_offsets(self, data):
        return "none"

class OutOfMemory(Bad):
    def encode(self, frames, references=None, *, shifts=None):
        raise MemoryError

class DecodesWrong(Bad):
    codec_id = "decodes-wrong"
    def decode(self, data, select=None, *, max_pixels=0):
        return super().decode(data, select) + 1

class DecodesAnotherShape(Bad):
    codec_id = "decodes-another-shape"
    def decode(self, data, select=None, *, max_pixels=0):
        return super().decode(data, select).swapaxes(1, 2)

class DecodeRaises(Bad):
    codec_id = "decode-raises"
    def decode(self, data, select=None, *, max_pixels=0):
        raise ZeroDivisionError("decode broke")

class DecodesNothing(Bad):
    codec_id = "decodes-nothing"
    def decode(self, data, select=None, *, max_pixels=0):
        return None

class Exits(Bad):
    def encode(self, frames, references=None, *, shifts=None):
        os._exit(3)

class Hangs(Bad):
    def encode(self, frames, references=None, *, shifts=None):
        while True:
            pass

class Segfaults(Bad):
    def encode(self, frames, references=None, *, shifts=None):
        os.kill(os.getpid(), signal.SIGSEGV)
'''

NAMES = {
    "raises": "Raises",
    "returns-nothing": "ReturnsNothing",
    "returns-garbage": "ReturnsGarbage",
    "odd-parameters": "OddParameters",
    "odd-offsets": "OddOffsets",
    "out-of-memory": "OutOfMemory",
    "decodes-wrong": "DecodesWrong",
    "decodes-another-shape": "DecodesAnotherShape",
    "decode-raises": "DecodeRaises",
    "decodes-nothing": "DecodesNothing",
    "exits": "Exits",
    "segfaults": "Segfaults",
    "hangs": "Hangs",
}
IN_PROCESS = [name for name in NAMES if name not in ("exits", "segfaults", "hangs")]


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(tmp_path / "archive")
    yield archive
    archive.close()


@pytest.fixture
def bad_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package of bad codecs, here and for every process started from here."""
    folder = tmp_path / "installed"
    (folder / "bad_codecs-1.dist-info").mkdir(parents=True)
    (folder / "bad_codecs-1.dist-info" / "METADATA").write_text("Name: bad_codecs\nVersion: 1\n")
    points = "\n".join(f"{name} = bad_codecs:{class_name}" for name, class_name in NAMES.items())
    (folder / "bad_codecs-1.dist-info" / "entry_points.txt").write_text(f"[dcmpress.codecs]\n{points}\n")
    (folder / "bad_codecs.py").write_text(textwrap.dedent(CODECS))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    yield
    codec_class.cache_clear()
    sys.modules.pop("bad_codecs", None)


def inline(archive: Archive, codec: str, **settings: Any) -> Pipeline:
    pipeline = Pipeline(archive, PipelineSettings(rules=(CompressionRule(CodecChoice(codec)),), **settings))
    pipeline._pool = Inline()  # type: ignore[assignment]
    return pipeline


@pytest.mark.usefixtures("bad_codecs")
@pytest.mark.parametrize("codec", IN_PROCESS)
def test_zstandard_takes_over(archive: Archive, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[CompressResult] = []

    def noted(job: CompressJob) -> CompressResult:
        results.append(compress(job))
        return results[-1]

    monkeypatch.setattr(pipeline_module, "compress", noted)
    sent = receive_series(archive)
    counters = inline(archive, codec).drain()
    (reason,) = [text for result in results for text in result.fallbacks]
    assert re.match(f"{codec} (failed|did not verify): ", reason)
    assert (counters.groups, counters.instances, counters.failures) == (1, 4, 0)
    assert counters.fallbacks >= 1
    assert archive.spool.names() == []
    assert_serves(archive, sent)
    assert [v.problems for v in verify(archive) if v.problems] == []
    assert "zstd" in archive.catalog.statistics().by_codec


@pytest.mark.usefixtures("bad_codecs")
@pytest.mark.parametrize("codec", ["exits", "segfaults"])
def test_a_codec_that_ends_its_process(archive: Archive, codec: str) -> None:
    """Only the group that did it is compressed by Zstandard; the others keep their codec."""
    bad = receive_series(archive, series="1.2.826.0.1.3680043.10.1.2", Modality="MR")
    good = receive_series(archive, series="1.2.826.0.1.3680043.10.1.3", Modality="CT")
    rules = (
        CompressionRule(CodecChoice("jpeg-ls"), {"Modality": "CT"}),
        CompressionRule(CodecChoice(codec)),
    )
    pipeline = Pipeline(archive, PipelineSettings(rules=rules))
    counters = pipeline.drain()
    assert (counters.groups, counters.instances, counters.fallbacks) == (2, 8, 1)
    assert archive.spool.names() == []
    assert list(archive.blobs.staging.iterdir()) == []
    assert_serves(archive, bad | good)
    assert set(archive.catalog.statistics().by_codec) == {"jpeg-ls", "zstd"}


@pytest.mark.usefixtures("bad_codecs")
def test_a_codec_that_does_not_end(archive: Archive) -> None:
    sent = receive_series(archive)
    rules = (CompressionRule(CodecChoice("hangs")),)
    counters = Pipeline(archive, PipelineSettings(rules=rules, job_seconds=1)).drain()
    assert (counters.groups, counters.instances, counters.fallbacks) == (1, 4, 1)
    assert archive.spool.names() == []
    assert_serves(archive, sent)
    assert set(archive.catalog.statistics().by_codec) == {"zstd"}


@pytest.mark.usefixtures("bad_codecs")
def test_a_preview_that_does_not_end(archive: Archive) -> None:
    sent = receive_series(archive)
    settings = PipelineSettings(
        rules=(CompressionRule(CodecChoice("zstd")),),
        previews=(CompressionRule(CodecChoice("hangs")),),
        job_seconds=1,
    )
    counters = Pipeline(archive, settings).drain()
    assert (counters.instances, counters.previews) == (4, 0)
    assert_serves(archive, sent)


@pytest.mark.usefixtures("bad_codecs")
def test_a_recompression_that_does_not_end(archive: Archive) -> None:
    sent = receive_series(archive)
    inline(archive, "zstd").drain()
    choice, before = CodecChoice("hangs"), datetime.now(UTC) + timedelta(days=1)
    asked = requested_codec("hangs", {})
    (series,) = archive.catalog.settling.stored_otherwise(asked, before)
    with Workers(1) as workers:
        limits = PipelineSettings(job_seconds=1)
        (done,) = recompress_series(archive, series, choice, before, limits, workers)
    assert done.problem == "hangs takes too long"
    assert archive.catalog.settling.stored_otherwise(asked, before) == []  # it is not tried for ever
    assert archive.catalog.settling.blobs_being_written() == []
    assert_serves(archive, sent)


def test_a_disk_that_fills_while_compressing(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = receive_series(archive)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    pipeline = inline(archive, "zstd")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr("dcmpress.storage.folders.os.fsync", full)
        counters = pipeline.drain()
    assert counters.failures == 1
    assert list(archive.blobs.staging.iterdir()) == []
    assert blob_files(archive) == []
    assert_serves(archive, sent)
    assert archive.catalog.settling.blobs_being_written() == []
    assert inline(archive, "zstd").drain().instances == 4
    assert_serves(archive, sent)


@pytest.mark.parametrize("step", ["remove", "log"])
def test_what_fails_after_the_commit_takes_nothing_away(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    sent = receive_series(archive)
    pipeline = inline(archive, "zstd")

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        if step == "remove":
            patch.setattr(archive.spool, "remove", fail)
        else:
            patch.setattr(pipeline_module.logger, "info", fail, raising=False)
        pipeline.drain()
    assert len(blob_files(archive)) == 1
    assert_serves(archive, sent)
    assert archive.recover().problems == {}
    assert archive.spool.names() == []
    assert_serves(archive, sent)


def test_a_commit_that_is_reported_as_failed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database may commit and the answer be lost: the blob is then the only copy."""
    sent = receive_series(archive)
    settling = archive.catalog.settling
    real = settling.settle

    def settle_and_fail(*arguments: Any) -> list[str]:
        for name in real(*arguments):
            archive.spool.remove(name)
        raise ConnectionError("the answer got lost")

    with monkeypatch.context() as patch:
        patch.setattr(settling, "settle", settle_and_fail)
        inline(archive, "zstd").drain()
    assert_serves(archive, sent)


def test_a_catalog_that_fails_does_not_end_the_pipeline(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = receive_series(archive) | receive_series(archive, series="1.2.826.0.1.3680043.10.1.9")
    settling = archive.catalog.settling

    def full(*_: object) -> None:
        raise NoSpaceError("no room for the catalog")

    monkeypatch.setattr(pipeline_module, "_BACK_OFF", (0.05,))
    with monkeypatch.context() as patch:
        for name in ("settle", "abandon_blob"):
            patch.setattr(settling, name, full)
        pipeline = Pipeline(archive, PipelineSettings(settle_seconds=0.0))
        pipeline.start()
        wait_until(lambda: pipeline.counters.failures >= 2)
    wait_until(lambda: not archive.spool.names())
    pipeline.stop()
    assert_serves(archive, sent)


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_damaged_spool_files_are_named_and_the_rest_goes_on(archive: Archive) -> None:
    sent = receive_series(archive)
    others = receive_series(archive, series="1.2.826.0.1.3680043.10.1.4")
    by_uid = {item.sop_instance_uid: item.spool_name for item in archive.spooled()}
    uids = list(sent)
    flipped, cut = (archive.spool.path(str(by_uid[uid])) for uid in uids[:2])
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-2])
    archive.spool.path(str(by_uid[uids[2]])).unlink()
    assert inline(archive, "zstd").drain().instances == 5
    for uid in uids[:3]:
        assert not archive.committed(uid)
    assert_serves(archive, {uids[3]: sent[uids[3]]} | others)
    for uid in uids[:3]:  # the same bytes again heal
        assert receive(archive, sent[uid], uid) == "healed"
    assert_serves(archive, sent)
    inline(archive, "zstd").drain()
    assert_serves(archive, sent)


def test_series_of_which_nothing_is_left_do_not_end_a_drain(archive: Archive) -> None:
    for k in range(4):
        receive_series(archive, n=1, series=f"1.2.826.0.1.3680043.10.1.{5 + k}")
    for item in list(archive.spooled())[:3]:
        archive.spool.path(item.spool_name).unlink()
    assert inline(archive, "zstd", workers=1).drain().instances == 1
    assert archive.spool.names() == []


def test_replaced_while_it_is_compressed(tmp_path: Path) -> None:
    """The group is read before, and settled after, another version took the instance's place."""
    archive = open_archive(tmp_path / "archive", on_conflict="replace")
    data_set = image(1)
    uid = str(data_set.SOPInstanceUID)
    receive(archive, encoded(data_set), uid)
    newer = encoded(image(1, PatientName="Other^Name"))
    pipeline = inline(archive, "zstd")
    pipeline._submit_ready(None)
    receive(archive, newer, uid)
    pipeline._collect(1.0)
    assert served(archive, uid) == newer
    pipeline.drain()
    assert served(archive, uid) == newer
    assert archive.spool.names() == []
    archive.close()


def test_healed_while_it_is_compressed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's verdict on a file that has been replaced meanwhile does not count."""
    sent = receive_series(archive, n=2)
    uid = next(iter(sent))
    (pk,) = [item.instance_pk for item in archive.spooled() if item.sop_instance_uid == uid]
    (name,) = [item.spool_name for item in archive.spooled() if item.sop_instance_uid == uid]

    def damage_then_heal(job: Any) -> Any:
        archive.spool.path(name).write_bytes(b"x")
        result = compress(job)
        archive.catalog.settling.mark_damaged([pk], "verify found it")
        assert receive(archive, sent[uid], uid) == "healed"
        return result

    monkeypatch.setattr(pipeline_module, "compress", damage_then_heal)
    pipeline = inline(archive, "zstd")
    pipeline._submit_ready(None)
    pipeline._collect(1.0)
    monkeypatch.undo()
    assert_serves(archive, sent)
    assert pipeline.drain().instances == 2
    assert_serves(archive, sent)


def test_stopping_gives_up_what_is_being_compressed(archive: Archive) -> None:
    sent = receive_series(archive)
    pipeline = Pipeline(archive, PipelineSettings())
    pipeline._submit_ready(None)
    assert len(pipeline._in_flight) == 1
    pipeline.stop()
    assert archive.catalog.settling.blobs_being_written() == []
    assert list(archive.blobs.staging.iterdir()) == []
    assert_serves(archive, sent)


def test_full_groups_do_not_wait(archive: Archive) -> None:
    receive_series(archive, n=7)
    pipeline = inline(archive, "zstd", group_instances=3, settle_seconds=3600.0)
    for _ in range(4):
        pipeline._submit_ready(quiet_since=pipeline_module.datetime(2000, 1, 1, tzinfo=pipeline_module.UTC))
        if pipeline._in_flight:
            pipeline._collect(1.0)
    assert pipeline.counters.instances == 6
    assert len(archive.spool.names()) == 1


def test_rules_choose_by_the_first_match(archive: Archive) -> None:
    receive_series(archive, n=2, series="1.2.826.0.1.3680043.10.1.2", Modality="CT")
    receive_series(archive, n=2, series="1.2.826.0.1.3680043.10.1.3", Modality="US")
    rules = (
        CompressionRule(CodecChoice("jpeg-ls"), {"Modality": "C?\\MR"}),
        CompressionRule(CodecChoice("rle"), {"CallingAETitle": "SCAN*"}),
    )
    pipeline = Pipeline(archive, PipelineSettings(rules=rules))
    pipeline._pool = Inline()  # type: ignore[assignment]
    pipeline.drain()
    assert {"jpeg-ls"} <= set(archive.catalog.statistics().by_codec) <= {"jpeg-ls", "rle", "zstd"}


def test_real_workers_compress(archive: Archive) -> None:
    sent = receive_series(archive, n=6)
    counters = compressed(archive, "jpeg-ls", workers=2).counters
    assert (counters.groups, counters.instances, counters.failures) == (1, 6, 0)
    assert_serves(archive, sent)
