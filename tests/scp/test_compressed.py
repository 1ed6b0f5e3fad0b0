"""Two nodes move blobs as they are: fewer bytes on the wire, and never less safe than instance by instance."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import Node
from tests.proxy import CountingProxy
from tests.scp.instances import encoded, image
from tests.scp.receivers import Destination, Retrieved, at_level, get, image_level, move
from tests.scp.wire import EXPLICIT, MR, Wire, found, store_rq

BLOB_STORAGE = "2.25.170988866714304403936882708419669861787"
BLOB_FORMAT_1 = "2.25.209432324645544866121907749598707716959"
SUCCESS = 0x0000
STUDY = "1.2.826.0.1.3680043.8.498.1"
N = 16


def smooth(number: int, **attributes: Any) -> tuple[str, bytes]:
    """Return an instance that compresses well."""
    uid, data_set = image(number, size=64, **attributes)
    ramp = bytes(byte for row in range(64) for column in range(64) for byte in ((row + column + number), 1))
    data_set.PixelData = ramp
    return uid, encoded(data_set)


IMAGES = dict(smooth(number) for number in range(1, N + 1))


def store(node: Node, images: dict[str, bytes]) -> None:
    with Wire(node.port) as wire:
        wire.associate([(MR, [EXPLICIT])])
        for uid, data in images.items():
            assert wire.store(1, MR, uid, data) == SUCCESS
        wire.release()


def whole_study() -> Any:
    return at_level("STUDY", StudyInstanceUID=STUDY)


def served(node: Node) -> dict[str, bytes]:
    return get(node.port, [(MR, EXPLICIT)], whole_study()).data_sets


def to(port: int, title: str = "B") -> dict[str, Any]:
    return {"ae_title": title, "host": "127.0.0.1", "port": port}


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose images lie in a blob."""
    with Node(tmp_path_factory.mktemp("a")) as node:
        store(node, IMAGES)
        node.drained()
        yield node


def moved_to(source: Node, port: int) -> Retrieved:
    source.reload(dicom={"peers": {"b": to(port)}})
    return move(source.port, "B", whole_study())


def test_a_blob_goes_as_it_is_and_is_kept(settled: Node, tmp_path: Path) -> None:
    with Node(tmp_path / "b") as node:
        proxy = CountingProxy(node.port)
        moved = moved_to(settled, proxy.port)
        proxy.close()
        assert moved.final.Status == SUCCESS
        assert moved.counts == (N, 0, 0)
        event = node.event("blob received", status="0000")
        assert (event["instances"], event["kept"]) == (N, True)
        assert event["raw_bytes"] == sum(map(len, IMAGES.values()))
        assert not node.events("store")  # nothing came one by one
        assert proxy.bytes < event["bytes"] + 4000
        assert proxy.bytes < event["raw_bytes"] / 2
        assert served(node) == IMAGES
        node.command("verify")
        (a,) = (settled.data / "blobs").glob("??/*.dcmb")
        (b,) = (node.data / "blobs").glob("??/*.dcmb")
        assert a.read_bytes() == b.read_bytes()
        assert not list((node.data / "blobs" / "staging").iterdir())


def test_what_was_acknowledged_survives_the_end_of_the_process(settled: Node, tmp_path: Path) -> None:
    node = Node(tmp_path / "b").start()
    assert moved_to(settled, node.port).counts == (N, 0, 0)
    node.stop(signal.SIGKILL)
    with node:
        assert served(node) == IMAGES
        node.command("verify")
        node.stop()
        (node.data / "catalog.sqlite").unlink()
        for extra in node.data.glob("catalog.sqlite-*"):
            extra.unlink()
        node.command("rebuild")
        node.start()
        assert served(node) == IMAGES


def test_what_is_known_already_takes_the_way_of_received_data_sets(settled: Node, tmp_path: Path) -> None:
    uid = next(iter(IMAGES))
    other = smooth(99, uid=uid)[1]
    with Node(tmp_path / "b") as node:
        store(node, {uid: other})
        assert moved_to(settled, node.port).counts == (N, 0, 0)
        assert node.event("blob received", status="0000")["kept"] is False
        assert served(node) == IMAGES  # the newest is served, as ever
        moved = moved_to(settled, node.port)  # and once more: nothing is stored twice
        assert moved.counts == (N, 0, 0)
        assert node.stats()["instances"] == N + 1
        node.drained()
        assert served(node) == IMAGES


def test_a_conflict_is_answered_for_the_instance_that_it_is_about(settled: Node, tmp_path: Path) -> None:
    uid = next(iter(IMAGES))
    other = smooth(99, uid=uid)[1]
    with Node(tmp_path / "b", storage={"on_conflict": "reject"}) as node:
        store(node, {uid: other})
        moved = moved_to(settled, node.port)
        assert moved.counts == (N - 1, 1, 0)
        assert moved.failed == [uid]
        node.event("blob received", status="0111")
        assert served(node) == {**IMAGES, uid: other}


def test_a_node_that_takes_none_gets_instances(settled: Node, tmp_path: Path) -> None:
    with Node(tmp_path / "b", dicom={"exchange_compressed": False}) as node:
        assert moved_to(settled, node.port).counts == (N, 0, 0)
        assert not node.events("blob received")
        assert served(node) == IMAGES


def test_who_is_no_node_gets_instances(settled: Node) -> None:
    """Even if it accepts whatever it is offered."""
    with Destination([(MR, EXPLICIT), (BLOB_STORAGE, BLOB_FORMAT_1)], ae_title="B") as destination:
        moved = moved_to(settled, destination.port)
        assert moved.counts == (N, 0, 0)
        assert (BLOB_STORAGE, BLOB_FORMAT_1) in destination.associations[0]
        assert destination.received.data_sets == IMAGES


def test_a_part_of_a_blob_goes_by_instances(settled: Node, tmp_path: Path) -> None:
    with Node(tmp_path / "b") as node:
        settled.reload(dicom={"peers": {"b": to(node.port)}})
        wanted = sorted(IMAGES)[:-1]
        assert move(settled.port, "B", image_level(wanted)).counts == (N - 1, 0, 0)
        assert not node.events("blob received")
        assert found(node.port) == wanted


def test_what_lies_in_the_spool_goes_by_instances(tmp_path: Path) -> None:
    """Half of a study in a blob, half of it not yet."""
    waiting = dict(smooth(number, SeriesInstanceUID="1.9") for number in range(30, 34))
    with Node(tmp_path / "b") as node, Node(tmp_path / "a") as source:
        store(source, IMAGES)
        source.drained()
        source.reload(pipeline={"settle_seconds": 3600}, dicom={"peers": {"b": to(node.port)}})
        store(source, waiting)
        moved = move(source.port, "B", whole_study())
        assert moved.counts == (N + 4, 0, 0)
        assert node.event("blob received")["instances"] == N
        assert served(node) == {**IMAGES, **waiting}


def test_a_damaged_blob_is_refused_and_what_is_sound_arrives(tmp_path: Path) -> None:
    with Node(tmp_path / "b") as node, Node(tmp_path / "a") as source:
        store(source, IMAGES)
        source.drained()
        (blob,) = (source.data / "blobs").glob("??/*.dcmb")
        data = bytearray(blob.read_bytes())
        at = data.index(b"FRMS") + 64 + 40  # in the codec's stream
        data[at] ^= 0x10
        blob.chmod(0o600)
        blob.write_bytes(data)
        source.reload(dicom={"peers": {"b": to(node.port)}})
        moved = move(source.port, "B", whole_study())
        completed, failed, _ = moved.counts
        assert failed > 0
        assert completed + failed == N
        node.event("blob received", status="C000")
        kept = served(node)
        assert len(kept) == completed
        assert all(IMAGES[uid] == data for uid, data in kept.items())
        node.command("verify")


def test_what_is_no_blob_is_refused(settled: Node, tmp_path: Path) -> None:
    (blob,) = (settled.data / "blobs").glob("??/*.dcmb")
    whole = blob.read_bytes()
    with Node(tmp_path / "b") as node, Wire(node.port) as wire:
        assert wire.associate([(BLOB_STORAGE, [BLOB_FORMAT_1]), (MR, [EXPLICIT])])[1] == (0, BLOB_FORMAT_1)
        for part in (b"no blob ", whole[: len(whole) // 6 * 2], whole[:-2], whole + whole):
            assert wire.store(1, BLOB_STORAGE, "2.25.1", part) == 0xC000
        uid, data = smooth(50)
        assert wire.store(3, MR, uid, data) == SUCCESS  # the association goes on
        wire.release()
        assert found(node.port) == [uid]
        assert not list((node.data / "blobs" / "staging").iterdir())


def test_a_blob_that_is_cut_off_leaves_nothing(settled: Node, tmp_path: Path) -> None:
    (blob,) = (settled.data / "blobs").glob("??/*.dcmb")
    with Node(tmp_path / "b") as node:
        with Wire(node.port) as wire:
            wire.associate([(BLOB_STORAGE, [BLOB_FORMAT_1])])

            message = wire.message(1, store_rq(BLOB_STORAGE, "2.25.1"), blob.read_bytes())
            wire.send(message[: len(message) * 2 // 3])
        node.event("association ended")
        assert found(node.port) == []
        assert not list((node.data / "blobs" / "staging").iterdir())
