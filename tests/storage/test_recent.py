"""Data sets kept in memory for the next retrieval: bounded, confirmed, and never instead of the truth."""

import hashlib
import time
from pathlib import Path

import pytest

from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.errors import DamagedError
from dcmpress.storage.recent import RecentDataSets
from dcmpress.storage.retrieve import Outgoing
from tests.storage.objects import assert_serves, blob_files, open_archive, receive_series
from tests.storage.test_crash import pipeline_of


def put(recent: RecentDataSets, number: int, size: int, retrieval: object) -> bytes:
    data = bytes([number]) * size
    key = hashlib.sha256(data).digest()
    recent.put(key, data, retrieval)
    return key


def test_the_least_recently_used_make_room() -> None:
    recent = RecentDataSets(1000)
    keys = [put(recent, number, 100, object()) for number in range(10)]
    assert recent.size == 1000
    assert recent.get(keys[0], object()) == bytes(100)
    put(recent, 10, 120, object())
    assert [key in recent for key in keys] == [True, False, False] + [True] * 7
    assert recent.size == 920


def test_a_series_larger_than_the_room_stays_in_part() -> None:
    recent = RecentDataSets(1000)
    for _ in range(2):
        retrieval = object()
        found = 0
        for number in range(15):
            key = hashlib.sha256(bytes([number]) * 100).digest()
            found += recent.get(key, retrieval) is not None
            put(recent, number, 100, retrieval)
    assert found == 10
    later = put(recent, 99, 100, object())
    assert later in recent


def test_what_would_take_much_of_the_room_is_not_kept() -> None:
    recent = RecentDataSets(1000)
    assert put(recent, 1, 126, object()) not in recent
    assert put(recent, 1, 125, object()) in recent
    assert put(RecentDataSets(0), 1, 1, object()) not in RecentDataSets(0)


def test_what_has_changed_in_memory_is_dropped() -> None:
    recent = RecentDataSets(1000)
    key = put(recent, 1, 100, object())
    recent._kept[key].data = b"\1" * 99 + b"\2"
    assert recent.get(key, object()) is None
    assert key not in recent
    assert recent.size == 0


# In an archive


def located(archive: Archive, sent: dict[str, bytes]) -> list[Located]:
    return [item for uid in sent if (item := archive.catalog.current_version(uid))]


@pytest.mark.parametrize(("cache_bytes", "from_memory"), [(1 << 24, True), (0, False)])
def test_a_series_fetched_again_is_not_decoded_again(
    tmp_path: Path, cache_bytes: int, from_memory: bool
) -> None:
    archive = open_archive(tmp_path / "archive", cache_bytes=cache_bytes)
    sent = receive_series(archive)
    assert_serves(archive, sent)
    assert archive.retriever.recent.size == 0  # the spool's files are read as they are
    pipeline_of(archive).drain()
    assert_serves(archive, sent)
    items = located(archive, sent)
    for path in blob_files(archive):
        path.unlink()
    results = list(archive.retrieve(items, lambda item: item.transfer_syntax_uid))
    assert [isinstance(result, Outgoing) for result in results] == [from_memory] * len(sent)
    if from_memory:
        assert_serves(archive, sent)
    archive.close()


def test_the_second_image_asked_for_by_itself_brings_its_neighbours(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "archive", cache_bytes=1 << 24)
    sent = receive_series(archive, n=6)
    pipeline_of(archive).drain()
    items = located(archive, sent)
    recent = archive.retriever.recent

    def fetch(item: Located) -> None:
        assert b"".join(archive.open(item.sop_instance_uid).pieces()) == sent[item.sop_instance_uid]

    fetch(items[3])
    assert [item.sha256 in recent for item in items] == [False] * 3 + [True] + [False] * 2
    fetch(items[5])
    deadline = time.monotonic() + 60
    while not all(item.sha256 in recent for item in items) and time.monotonic() < deadline:
        time.sleep(0.01)
    for path in blob_files(archive):
        path.unlink()
    for item in items:
        fetch(item)
    archive.close()


def test_what_is_known_to_be_damaged_is_not_served_from_memory(tmp_path: Path) -> None:
    archive = open_archive(tmp_path / "archive", cache_bytes=1 << 24)
    sent = receive_series(archive)
    pipeline_of(archive).drain()
    assert_serves(archive, sent)
    items = located(archive, sent)
    archive.catalog.settling.mark_damaged([item.instance_pk for item in items], "a test")
    for uid in sent:
        with pytest.raises(DamagedError):
            archive.open(uid)
    archive.close()


def test_retrievals_share_what_may_be_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcmpress.storage.retrieve.BATCH_BYTES", 1)
    archive = open_archive(tmp_path / "archive")
    sent = receive_series(archive, n=8)
    pipeline_of(archive).drain()
    items = located(archive, sent)
    whole = archive.retriever._ahead._free
    archive.retriever._ahead._free = items[0].size * 2
    first, second = (archive.retrieve(items, lambda item: item.transfer_syntax_uid) for _ in range(2))
    served = []
    for results in (first, second):
        result = next(results)
        assert isinstance(result, Outgoing)
        served.append(b"".join(result.pieces()))
    assert (
        archive.retriever._ahead._free == -items[0].size
    )  # two of the first, and one of the second in any case
    for result in second:
        assert isinstance(result, Outgoing)
        served.append(b"".join(result.pieces()))
    first.close()
    assert archive.retriever._ahead._free == items[0].size * 2
    assert served == [sent[items[0].sop_instance_uid], *(sent[item.sop_instance_uid] for item in items)]
    archive.retriever._ahead._free = whole
    archive.close()
