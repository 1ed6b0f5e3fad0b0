"""Re-compression: what it leaves behind, what it tries in vain, and what else goes on meanwhile."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.settling import BlobFacts, requested_codec
from dcmpress.storage.cold import ColdStorage
from dcmpress.storage.compress import CodecChoice, CompressJob
from dcmpress.storage.errors import NoSpaceError
from dcmpress.storage.pipeline import PipelineSettings
from dcmpress.storage.recompress import MOST_TRIES, Recompressed, recompress_series
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
)
from tests.storage.test_crash import Inline
from tests.storage.test_pipeline import bad_codecs  # noqa: F401  # a fixture

FAST = CodecChoice("interframe", {"effort": "fast"})
ASKED = requested_codec(FAST.codec, FAST.parameters)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = open_archive(tmp_path / "archive")
    yield archive
    archive.close()


class Meddling(Inline):
    """Does something of its own before each job."""

    def __init__(self, first: Callable[[CompressJob], object]) -> None:
        self._first = first

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self._first(*arguments)
        return super().submit(work, *arguments)


def recompressed(
    archive: Archive, workers: Any = None, choice: CodecChoice = FAST, **limits: Any
) -> list[Recompressed]:
    """Re-compress everything once."""
    before = datetime.now(UTC) + timedelta(days=1)
    asked, settings = requested_codec(choice.codec, choice.parameters), PipelineSettings(**limits)
    at_work: Any = workers or Inline()
    return [
        done
        for series in archive.catalog.settling.stored_otherwise(asked, before)
        for done in recompress_series(archive, series, choice, before, settings, at_work)
    ]


def two_blobs(archive: Archive) -> tuple[dict[str, bytes], list[str]]:
    """Take in a series that lies in two blobs; return its data sets, and the names of the blobs as they came."""
    names: list[str] = []
    sent = {}
    for number in (1, 2):
        data_set = image(number)
        sent[str(data_set.SOPInstanceUID)] = encoded(data_set)
        receive(archive, encoded(data_set), data_set.SOPInstanceUID)
        compressed(archive)
        names += set(archive.blobs.names()) - set(names)
    return sent, names


# What is left behind


def test_a_start_removes_the_scratch_files_of_the_dead(archive: Archive, tmp_path: Path) -> None:
    folder = archive.temporary / "recompress-0123"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(bytes(1000))
    (archive.temporary / "exchange-4567").write_bytes(bytes(1000))
    for name, age in (("tmpfresh", 0), ("tmpold", 7200)):
        for where in (archive.temporary, archive.blobs.staging):
            (where / name).write_bytes(b"")
            os.utime(where / name, (time.time() - age,) * 2)
    (archive.temporary / "recompress-89ab").mkdir()
    with open_fd(archive.temporary / "recompress-89ab") as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        archive.blobs.staged("89ab").write_bytes(b"")
        archive.blobs.staged("0123").write_bytes(b"")
        recovered = archive.recover()
        assert sorted(path.name for path in archive.temporary.iterdir()) == ["recompress-89ab", "tmpfresh"]
        assert sorted(path.name for path in archive.blobs.staging.iterdir()) == ["89ab.part", "tmpfresh"]
    assert recovered.scratch == 3
    assert open_archive(tmp_path / "archive").recover().scratch == 1


class open_fd:  # noqa: N801
    """A file descriptor, for a while."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def test_a_start_leaves_a_recompression_alone(archive: Archive, tmp_path: Path) -> None:
    """`dcmpress recompress` may be at work for days; a node that starts meanwhile must not take its blobs."""
    sent = receive_series(archive)
    compressed(archive)
    other = open_archive(tmp_path / "archive")
    (done,) = recompressed(archive, Meddling(lambda _: other.recover()))
    other.recover()
    other.close()
    assert (done.problem, done.instances) == ("", 4)
    assert list(archive.temporary.iterdir()) == []
    assert list(archive.blobs.staging.iterdir()) == []
    assert len(blob_files(archive)) == 1
    assert_serves(archive, sent)


def test_a_blob_that_is_settled_while_a_start_looks_stays(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the list of unfinished blobs and the removal of a file much can happen."""
    sent = receive_series(archive)
    compressed(archive)
    other = open_archive(tmp_path / "archive")
    listed, may_go_on = threading.Event(), threading.Event()
    ask = other.catalog.settling.blobs_being_written
    answers: list[Any] = []

    def slowly() -> list[tuple[int, str]]:
        answer = ask()
        answers.append(answer)
        listed.set()
        may_go_on.wait(10)
        return answer

    monkeypatch.setattr(other.catalog.settling, "blobs_being_written", slowly)
    starting = threading.Thread(target=other.recover)

    def begin(_: CompressJob) -> None:
        starting.start()
        assert listed.wait(10)

    (done,) = recompressed(archive, Meddling(begin))
    may_go_on.set()
    starting.join()
    other.close()
    assert len(answers[0]) == 1
    assert done.problem == ""
    assert_serves(archive, sent)


def test_nothing_stays_open(archive: Archive) -> None:
    """A few instances leave files prepared for more."""
    receive_series(archive, 5)
    compressed(archive)
    recompressed(archive)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for effort in ("balanced", "fast", "balanced"):
        recompressed(archive, choice=CodecChoice("interframe", {"effort": effort}))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_what_comes_in_has_the_right_of_way_to_the_disk(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "archive")
    sent = receive_series(archive)
    compressed(archive)
    archive.close()
    archive = open_archive(tmp_path / "archive", reserve=1 << 60)
    with pytest.raises(NoSpaceError):
        recompressed(archive)
    assert archive.catalog.tries.of(list(archive.blobs.names())) == dict.fromkeys(archive.blobs.names(), 0)
    assert list(archive.temporary.iterdir()) == []
    assert_serves(archive, sent)
    archive.close()


# What is tried in vain


def poison(uid: str) -> Meddling:
    """Return workers that die of an instance."""

    def dies(job: CompressJob) -> None:
        if any(entry.meta.sop_instance_uid == uid for entry in job.entries):
            raise BrokenProcessPool("it died")

    return Meddling(dies)


def test_what_kills_its_worker_is_left_alone_after_some_tries(archive: Archive, tmp_path: Path) -> None:
    sent, (bad, good) = two_blobs(archive)
    workers = poison(next(iter(sent)))
    for n in range(1, MOST_TRIES):
        done = recompressed(archive, workers)
        assert [bool(d.problem) for d in done] == ([True] if n == 1 else [d.blobs == (bad,) for d in done])
        archive.close()
        archive = open_archive(tmp_path / "archive")  # the count survives
        archive.recover()
        assert archive.catalog.tries.of([bad]) == {bad: n}
    assert good not in archive.blobs.names()  # the neighbour was not held up
    (last,) = recompressed(archive, workers)
    assert (last.problem, last.blobs, last.given_up) == ("the worker process died", (bad,), True)
    assert recompressed(archive, workers) == []
    (left,) = archive.catalog.tries.left_alone()
    assert (left.blob_name, left.reason) == (bad, "the worker process died")
    assert_serves(archive, sent)
    assert [v.problems for v in verify(archive) if v.problems] == []
    # Another codec is another matter.
    (done_by_another,) = recompressed(archive, choice=CodecChoice("interframe", {"effort": "balanced"}))
    assert bad in done_by_another.blobs
    assert archive.catalog.tries.left_alone() == []
    archive.close()


def test_what_was_left_alone_is_tried_again_when_asked(archive: Archive) -> None:
    sent, (bad, _) = two_blobs(archive)
    workers = poison(next(iter(sent)))
    while recompressed(archive, workers):
        pass
    archive.catalog.tries.try_again(ASKED)
    assert archive.catalog.tries.left_alone() == []
    (done,) = recompressed(archive)
    assert (done.blobs, done.problem) == ((bad,), "")
    assert_serves(archive, sent)


def test_what_takes_the_node_along_is_left_alone(archive: Archive) -> None:
    """Its end leaves no exception to count: the try was counted before."""
    sent, (bad, good) = two_blobs(archive)
    archive.catalog.tries.begin([bad, good])
    for _ in range(MOST_TRIES - 1):
        archive.catalog.tries.begin([bad])
    done = {d.blobs: d for d in recompressed(archive)}
    assert done[(bad,)].given_up
    assert done[(good,)].problem == ""
    assert recompressed(archive) == []
    assert_serves(archive, sent)


@pytest.mark.usefixtures("bad_codecs")
@pytest.mark.parametrize("codec", ["segfaults", "hangs"])
def test_worker_processes_that_die(archive: Archive, codec: str) -> None:
    """A real one is replaced by the next, and its neighbours are not blamed."""
    sent, names = two_blobs(archive)
    choice = CodecChoice(codec)
    seconds = 1 if codec == "hangs" else 60
    with Workers(1) as workers:
        rounds = [recompressed(archive, workers, choice, job_seconds=seconds) for _ in range(2)]
        (both,), each = rounds
        assert not both.given_up
        assert {d.blobs for d in each} == {(name,) for name in names}
        assert all(d.given_up == (codec == "hangs") for d in each)
        again = recompressed(archive, workers, choice, job_seconds=seconds)
        assert all(d.given_up for d in again)
        assert len(again) == (0 if codec == "hangs" else 2)
        assert recompressed(archive, workers, choice, job_seconds=seconds) == []
    assert sorted(archive.blobs.names()) == sorted(names)
    assert_serves(archive, sent)


def test_what_is_interrupted_was_not_in_vain(archive: Archive) -> None:
    """Neither the end of the node nor a full disk says anything against the images."""
    _, names = two_blobs(archive)

    def stop(_: CompressJob) -> None:
        raise KeyboardInterrupt

    def full(_: CompressJob) -> None:
        raise OSError(28, "No space left on device")

    class Ended(Meddling):
        ended = True

    def end(_: CompressJob) -> None:
        raise BrokenProcessPool("ended")

    for workers, error in (
        (Meddling(stop), KeyboardInterrupt),
        (Meddling(full), OSError),
        (Ended(end), BrokenProcessPool),
    ):
        with pytest.raises(error):
            recompressed(archive, workers)
        assert archive.catalog.tries.of(names) == dict.fromkeys(names, 0)
        assert archive.catalog.settling.blobs_being_written() == []


def test_the_end_does_not_wait_for_a_group_to_be_unpacked(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = receive_series(archive)
    compressed(archive)
    workers, retrieve, found = Workers(1), archive.retrieve, []

    def one_by_one(*arguments: Any) -> Iterator[Any]:
        for one in retrieve(*arguments):
            found.append(one)
            yield one
            workers.end()

    with monkeypatch.context() as patch:
        patch.setattr(archive, "retrieve", one_by_one)
        with pytest.raises(BrokenProcessPool):
            recompressed(archive, workers)
    assert len(found) == 2
    assert list(archive.temporary.iterdir()) == []
    assert archive.catalog.tries.of(list(archive.blobs.names())) == dict.fromkeys(archive.blobs.names(), 0)
    assert_serves(archive, sent)


def test_the_idle_node_reports_what_it_gives_up_and_keeps_no_threads(archive: Archive) -> None:
    sent, (bad, _) = two_blobs(archive)
    cold = ColdStorage(archive, FAST, timedelta(days=-1), PipelineSettings())
    cold._workers = poison(next(iter(sent)))  # type: ignore[assignment]
    cold._workers.kill = lambda: None  # type: ignore[method-assign]
    before = _threads()
    with capture_logs() as logs:
        for _ in range(MOST_TRIES + 2):
            cold._work()
    assert [(log["event"], log["log_level"]) for log in logs if log["log_level"] != "info"] == [
        ("not re-compressed", "warning"),
        ("not re-compressed", "warning"),
        ("re-compression given up", "error"),
    ]
    assert logs[-1]["blobs"] == (bad,)
    assert _threads() == before
    assert_serves(archive, sent)


def _threads() -> list[str]:
    """Names of the threads but those that retrievals keep for the next one."""
    return [
        thread.name for thread in threading.enumerate() if not thread.name.startswith(("decode", "freed"))
    ]


# What happens meanwhile


def test_what_was_healed_meanwhile_by_other_bytes_is_passed_over(tmp_path: Path) -> None:
    """A damaged pixel-exact instance is healed by what it was made from: the new blob holds something else."""
    archive = open_archive(tmp_path / "archive")
    sent = receive_series(archive, 1)
    ((uid, data),) = sent.items()
    compressed(archive)
    (row,) = archive.catalog.versions(uid)
    blob = archive.catalog.settling.begin_blob("new")
    facts, other = BlobFacts(1, 1, 1, "zstd", 1), {row.instance_pk: bytes(32)}
    archive.catalog.settling.settle(blob, facts, [(row.instance_pk, 0)], None, other)
    assert archive.catalog.versions(uid) == [row]
    assert_serves(archive, {uid: data})
    archive.close()
