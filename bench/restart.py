"""How long a node takes from its start until it accepts associations, with many instances in the spool.

    python -m bench.restart [--instances 10000] [--rounds 3]

Two cases: the node was killed, so that the catalog knows the spool files; and the catalog is gone, so that
every file is read and entered again, which is more than any power cut takes. Beside each, the same start with
an empty spool. The compression waits (`settle_seconds`), so that the spool stays as it is.
"""

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.nodes import Node

from bench.node_workloads import mr_series
from dcmpress.storage.archive import Archive, ArchiveSettings
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.spool import Sender

EXPLICIT = "1.2.840.10008.1.2.1"


def fill(folder: Path, n: int) -> None:
    """Put `n` images of 128 x 128 into the spool, as the node's own receipt does."""
    archive = Archive(ArchiveSettings(folder))
    images = mr_series(100)
    for number in range(n):
        image = images[number % 100].renamed(number // 100)
        meta = FileMeta(image.sop_class_uid, image.sop_instance_uid, EXPLICIT)
        incoming = archive.begin(meta, Sender("BENCH", "DCMPRESS", "127.0.0.1"))
        incoming.write(image.data)
        archive.commit(incoming)
    archive.close()


def started(node: Node) -> tuple[float, float]:
    """Start the node; return (seconds until it listens, CPU seconds of its process until then); kill it."""
    begun = time.perf_counter()
    node.start()
    took = time.perf_counter() - begun
    assert node.process is not None
    fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
    node.stop(signal.SIGKILL)
    return took, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    waiting = {"settle_seconds": 86400}
    measured: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        empty = Node(Path(folder) / "empty", pipeline=waiting)
        full = Node(Path(folder) / "full", pipeline=waiting)
        started(empty)  # reads the program from the disk once
        fill(full.data, options.instances)
        for _ in range(options.rounds):
            measured.setdefault("empty spool", []).append(started(empty))
            measured.setdefault("after a kill", []).append(started(full))
            for file in full.data.glob("catalog.sqlite*"):
                file.unlink()
            measured.setdefault("without its catalog", []).append(started(full))
    print(f"{options.instances} instances in the spool, median of {options.rounds}:")
    for name, values in measured.items():
        wall, cpu = (median(value) for value in zip(*values, strict=True))
        print(f"  {name:20} ready after {wall:5.2f} s ({cpu:5.2f} s of CPU)")


if __name__ == "__main__":
    main()
