"""What arrives compressed, over the wire, settled, and back: the same bytes, kept smaller."""

from pathlib import Path

from tests.nodes import Node, sha256
from tests.scp.receivers import get, image_level
from tests.scp.wire import store_all
from tests.storage.objects import MR_IMAGE
from tests.storage.test_reconstruct import JPEG_BASELINE, PICTURES, SYNTAXES, encapsulated, lossless_series

SERIES = "1.2.826.0.1.3680043.10.7"


def test_it_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    instances = {}
    for k, (name, syntax) in enumerate(SYNTAXES.items()):
        for uid, data in lossless_series(name, 4, series=f"{SERIES}.{k}"):
            instances[uid] = (syntax, data)
    uid, data = encapsulated(1, PICTURES, 4, series=f"{SERIES}.9")
    instances[uid] = (JPEG_BASELINE, data)
    with Node(tmp_path / "node", pipeline={"settle_seconds": 0.2}) as node:
        statuses = store_all(node.port, [(MR_IMAGE, uid, *instance) for uid, instance in instances.items()])
        assert set(statuses) == {0}
        stats = node.settled()
        assert stats["by_codec"]["reconstruct"]["instances"] == len(instances)
        assert not node.events("codec not used")
        pairs = {(MR_IMAGE, syntax) for syntax, _ in instances.values()}
        got = get(node.port, pairs, image_level(list(instances)))
        assert got.counts == (len(instances), 0, 0)
        assert {uid: sha256(data) for uid, data in got.data_sets.items()} == {
            uid: sha256(data) for uid, (_, data) in instances.items()
        }
        assert got.syntaxes == {uid: syntax for uid, (syntax, _) in instances.items()}
        node.command("verify")
