"""Bytes on the wire between two nodes: blobs as they are, beside plain C-STORE.

    python -m bench.exchange [--effort balanced] [GROUP ...]

Each group of the corpus is stored in a node and compressed; C-MOVE then sends it to one node that takes blobs and
to one that does not, through a proxy that counts what is sent there. CPU seconds are of both nodes together, up
to the last response; compressing again at the receiver, which only the plain way needs, comes on top.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from tests.corpus_files import data_set, series_files
from tests.nodes import Node, send_unchanged
from tests.proxy import CountingProxy
from tests.scp.receivers import get, image_level, move

from bench.idle_associations import cpu_seconds
from dcmpress.storage.part10 import FileMeta

GROUPS = ("CT-LungDxA0002", "MR-GE-T1-3D", "PT-QINHN0024", "MR-enhanced-MF", "US-EPIQ-cine", "XA-catheter")


def sent(source: Node, target: Node, uids: list[str]) -> tuple[int, float]:
    """Move instances from node to node; return the bytes on the wire and the processor time of both."""
    proxy = CountingProxy(target.port)
    peer: dict[str, Any] = {"ae_title": "TARGET", "host": "127.0.0.1", "port": proxy.port}
    source.reload(dicom={"peers": {"target": peer}})
    assert source.process is not None
    assert target.process is not None
    pids = (source.process.pid, target.process.pid)
    before = sum(map(cpu_seconds, pids))
    moved = move(source.port, "TARGET", image_level(uids))
    assert moved.counts == (len(uids), 0, 0)
    proxy.close()
    return proxy.bytes, sum(map(cpu_seconds, pids)) - before


def load_kernels(node: Node) -> None:
    """Let a node decode something of another series."""
    paths = series_files("MR-heart-cine-MF")
    send_unchanged(node.port, paths)
    node.settled()
    meta, _ = data_set(paths[0])
    get(node.port, [(meta.sop_class_uid, meta.transfer_syntax_uid)], image_level([meta.sop_instance_uid]))


def measure(group: str, effort: str, folder: Path) -> str:
    """Return a row of the table."""
    latest: dict[str, tuple[FileMeta, Path, int]] = {}
    for path in series_files(group):
        meta, data = data_set(path)
        latest[meta.sop_instance_uid] = (meta, path, len(data))
    rules = [{"codec": "interframe", "effort": effort}]
    waiting = {"settle_seconds": 3600}
    with (
        Node(folder / "source", compression={"rules": rules}) as source,
        Node(folder / "blobs", compression={"rules": rules}) as blobs,
        Node(folder / "plain", dicom={"exchange_compressed": False}, pipeline=waiting) as plain,
    ):
        statuses = send_unchanged(source.port, [path for _, path, _ in latest.values()])
        assert set(statuses.values()) == {0}
        source.settled(3600)
        uids = sorted(latest)
        load_kernels(blobs)
        sent(source, plain, uids[:1])
        plain_bytes, plain_cpu = sent(source, plain, uids)
        blob_bytes, blob_cpu = sent(source, blobs, uids)
        assert blobs.events("blob received")
    raw = sum(size for _, _, size in latest.values())
    return (
        f"| {group} | {len(uids)} | {raw:,} | {plain_bytes:,} | {blob_bytes:,} | {plain_bytes / blob_bytes:.2f} | "
        f"{plain_cpu:.1f} | {blob_cpu:.1f} |"
    )


def main() -> None:
    """Measure and print one row for each group."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", default=GROUPS)
    parser.add_argument("--effort", default="balanced")
    options = parser.parse_args()
    print("| group | instances | data sets | plain C-STORE | blobs | ratio | CPU s, plain | CPU s, blobs |")
    print("|---|---|---|---|---|---|---|---|")
    for group in options.groups:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(group, options.effort, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
