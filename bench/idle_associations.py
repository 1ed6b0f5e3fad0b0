"""Processor time that idle associations cost: this node beside a stock pynetdicom application entity.

    python -m bench.idle_associations [--associations 50] [--seconds 10] [--rounds 3]

The two take turns in one run; each serves the same silent connections, opened by plain sockets in this process.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.nodes import Node, free_port
from tests.scp.wire import IMPLICIT, VERIFICATION, Wire, wait_for

STOCK = """
from pynetdicom import AE
from pynetdicom.sop_class import Verification
ae = AE()
ae.add_supported_context(Verification)
ae.maximum_associations = 1000
ae.network_timeout = 600
ae.start_server(("127.0.0.1", {port}))
"""


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def cost(pid: int, port: int, associations: int, seconds: float) -> float:
    """Return the share of a core that a server spends on idle associations."""
    wires = [Wire(port) for _ in range(associations)]
    for wire in wires:
        wire.associate([(VERIFICATION, [IMPLICIT])])
    time.sleep(1)
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    spent = (cpu_seconds(pid) - before) / (time.monotonic() - started)
    for wire in wires:
        wire.socket.close()
    return spent


def main() -> None:
    """Measure and print one line for each server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--associations", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    port = free_port()
    stock = subprocess.Popen([sys.executable, "-c", STOCK.format(port=port)])
    shares: dict[str, list[float]] = {"dcmpress": [], "pynetdicom": []}
    try:
        with tempfile.TemporaryDirectory() as folder, Node(Path(folder) / "node") as node:
            assert node.process is not None
            assert wait_for(lambda: _listens(port))
            for _ in range(options.rounds):
                for name, pid, at in (
                    ("dcmpress", node.process.pid, node.port),
                    ("pynetdicom", stock.pid, port),
                ):
                    shares[name].append(cost(pid, at, options.associations, options.seconds))
    finally:
        stock.terminate()
        stock.wait()
    for name, values in shares.items():
        print(
            f"{name:12} {options.associations} idle associations: "
            f"{100 * statistics.median(values):6.2f} % of a core (median of {len(values)})"
        )


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
