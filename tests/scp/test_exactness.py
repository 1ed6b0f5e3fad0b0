"""The promise of the house, over every DICOM file of the corpus: what comes back is what was on the wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcmpress.storage.archive import WANTED
from dcmpress.storage.leading import read_leading
from tests.corpus_files import data_set, part10_files
from tests.nodes import Node, send_unchanged, sha256
from tests.scp.receivers import Destination, get, image_level, move
from tests.scp.wire import SECONDARY_CAPTURE, store_all

PER_REQUEST = 200


class Sent:
    """The corpus on its way: what was sent last under each SOP Instance UID."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.pairs: dict[str, tuple[str, str]] = {}

    def note(self, uid: str, pair: tuple[str, str], data: bytes) -> None:
        self.digests[uid] = sha256(data + b"\0" * (len(data) % 2))
        self.pairs[uid] = pair


def send_corpus(port: int) -> Sent:
    sent = Sent()
    odd = {}
    for path in part10_files():
        meta, data = data_set(path)
        inside = read_leading(data, meta.transfer_syntax_uid, WANTED)
        named = (meta.sop_class_uid, meta.sop_instance_uid)
        if not all(named) or named != (inside.sop_class_uid, inside.sop_instance_uid):
            odd[path] = (inside.sop_class_uid or SECONDARY_CAPTURE, inside.sop_instance_uid)
    statuses = send_unchanged(port, [path for path in part10_files() if path not in odd])
    assert set(statuses.values()) == {0}
    for path in statuses:  # in the order of sending: of two versions of an instance the newest is served
        meta, data = data_set(path)
        sent.note(meta.sop_instance_uid, (meta.sop_class_uid, meta.transfer_syntax_uid), data)
    for number, (path, (sop_class, uid)) in enumerate(odd.items(), 1):
        # File meta information that is not the data set's own: pynetdicom would take it for the request.
        meta, data = data_set(path)
        uid = uid or f"2.25.{number}"
        assert store_all(port, [(sop_class, uid, meta.transfer_syntax_uid, data)]) == [0]
        sent.note(uid, (sop_class, meta.transfer_syntax_uid), data)
    return sent


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with Destination() as running:
        yield running


def check_get(port: int, sent: Sent) -> None:
    """Bring everything back by C-GET and compare SHA-256."""
    for part in parts(sent):
        got = get(port, {sent.pairs[uid] for uid in part}, image_level(part))
        assert got.final.Status == 0
        assert got.counts == (len(part), 0, 0)
        assert {uid: sha256(data) for uid, data in got.data_sets.items()} == {
            uid: sent.digests[uid] for uid in part
        }
        assert got.syntaxes == {uid: sent.pairs[uid][1] for uid in part}


def check_move(port: int, sent: Sent, destination: Destination) -> None:
    """Bring everything back by C-MOVE and compare SHA-256."""
    for part in parts(sent):
        destination.reset()
        destination.accept({sent.pairs[uid] for uid in part})
        moved = move(port, "DEST", image_level(part))
        assert moved.final.Status == 0
        assert moved.counts == (len(part), 0, 0)
        received = destination.received.data_sets
        assert {uid: sha256(data) for uid, data in received.items()} == {
            uid: sent.digests[uid] for uid in part
        }


def parts(sent: Sent) -> Iterator[list[str]]:
    uids = sorted(sent.digests)
    for start in range(0, len(uids), PER_REQUEST):
        yield uids[start : start + PER_REQUEST]


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_file_comes_back_as_it_was_sent(
    tmp_path: Path, destination: Destination, thorough: bool
) -> None:
    waiting = {"settle_seconds": 3600, "group_mib": 4096}
    peers = {"peers": {"dest": destination.peer}}
    with Node(tmp_path / "node", dicom=peers, pipeline=waiting) as node:
        sent = send_corpus(node.port)
        assert node.stats()["spool"]["instances"] >= len(sent.digests)
        check_move(node.port, sent, destination)  # from the spool
        if thorough:
            check_get(node.port, sent)

        node.reload(pipeline={"settle_seconds": 0.5})
        stats = node.settled()
        assert stats["instances"] >= len(sent.digests)
        check_get(node.port, sent)  # from blobs
        if thorough:
            check_move(node.port, sent, destination)
        assert node.events("instance not sent") == []
        assert stats["damaged"] == 0
