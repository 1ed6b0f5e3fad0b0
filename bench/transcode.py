"""A CT series fetched by C-GET in compressed transfer syntaxes: the node beside Orthanc, in one run.

    python -m bench.transcode [--only SYNTAX ...] [--images N] [--rounds N] [--folder DIR]

As root, on Linux, with Debian's `orthanc`. Each receiver accepts one transfer syntax, so that each server has
to encode every image. The node is measured twice: with the series still as it came in the spool, as Orthanc
keeps it, and compressed in blobs. Orthanc 1.10 never encodes for C-GET and C-MOVE; it does so for a series
fetched over its REST interface as an archive (`/series/ID/archive?transcode=UID`, one ZIP), by DCMTK, which
knows neither HTJ2K nor JPEG XL and does not encode JPEG 2000. The ratios of all lines are to Orthanc's archive
in JPEG-LS, medians over rounds in alternating order.
"""

import argparse
import io
import json
import os
import signal
import socket
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from urllib.error import HTTPError
from urllib.request import urlopen

from pydicom import dcmread

from bench import node_workloads as workloads
from bench.node import into_own_network, servers_in, wait_until_compressed
from bench.node_client import EXPLICIT
from bench.node_measure import Cost, get_series, store
from bench.node_peers import Dcmpress, DcmpressDecoding, Orthanc, Server

_PREFIX = "1.2.840.10008.1.2."
SYNTAXES = {
    "explicit (not encoded)": EXPLICIT,
    "JPEG-LS": _PREFIX + "4.80",
    "HTJ2K": _PREFIX + "4.201",
    "JPEG Lossless SV1": _PREFIX + "4.70",
    "RLE": _PREFIX + "5",
    "JPEG 2000": _PREFIX + "4.90",
    "JPEG XL": _PREFIX + "4.110",
}
REFERENCE = ("Orthanc, REST archive", "JPEG-LS")


class DcmpressSpooled(Dcmpress):
    """This node, which has not compressed yet what it received."""

    name = "dcmpress, in the spool"


class DcmpressBlobs(DcmpressDecoding):
    """This node, which has compressed what it received and decodes it for each retrieval."""

    name = "dcmpress, in blobs"


class OrthancArchive(Orthanc):
    """Orthanc with its web server on."""

    name = "Orthanc, REST archive"

    def command(self) -> list[str]:
        command = super().command()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.web_port = int(probe.getsockname()[1])
        path = Path(command[-1])
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"HttpServerEnabled": True, "HttpPort": self.web_port}))
        return command

    def fetch(self, transfer_syntax: str) -> Cost | None:
        """Fetch its one series, or return None if it does not encode it so."""
        base = f"http://127.0.0.1:{self.web_port}/series"
        (series,) = json.load(urlopen(base))
        cpu, started = self.cpu_seconds(), time.perf_counter()
        try:
            data = urlopen(f"{base}/{series}/archive?transcode={transfer_syntax}").read()
        except HTTPError:
            return None
        seconds, spent = time.perf_counter() - started, self.cpu_seconds() - cpu
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = archive.infolist()
            meta = dcmread(io.BytesIO(archive.read(files[0])), stop_before_pixels=True).file_meta
        if meta.TransferSyntaxUID != transfer_syntax:
            return None
        return Cost(seconds, len(files), sum(file.file_size for file in files), spent)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SYNTAXES, default=list(SYNTAXES), metavar="SYNTAX")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the servers keep their data")
    arguments = parser.parse_args()
    into_own_network("bench.transcode")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="bench-transcode-", dir=arguments.folder) as folder:
        names = list(dict.fromkeys([*arguments.only, REFERENCE[1]]))
        print_table(measure(Path(folder), names, arguments.images, arguments.rounds))


def measure(
    folder: Path, names: Sequence[str], n_images: int, rounds: int
) -> dict[tuple[str, str], list[Cost]]:
    """Return (server, syntax) -> the cost of fetching the series, once per round."""
    series = workloads.ct_series(n_images)
    costs: dict[tuple[str, str], list[Cost]] = {}
    with servers_in(folder, (DcmpressSpooled, DcmpressBlobs, OrthancArchive)) as servers:
        for server in servers:
            store(server, series, 0)
        wait_until_compressed([server for server in servers if isinstance(server, DcmpressBlobs)])
        pairs = [(server, name) for name in names for server in servers]
        for number in range(-1, rounds):  # the first warms up
            for server, name in pairs if number % 2 == 0 else list(reversed(pairs)):
                cost = _fetch(server, name, n_images)
                if cost is not None and number >= 0:
                    costs.setdefault((server.name, name), []).append(cost)
    return costs


def _fetch(server: Server, name: str, n_images: int) -> Cost | None:
    """Return what it cost, or None if the server does not send that syntax."""
    os.sync()
    if isinstance(server, OrthancArchive):
        cost = server.fetch(SYNTAXES[name])
        if cost is None:
            return None
    else:
        cost = get_series(server, workloads.CT, 0, SYNTAXES[name])
    if cost.images != n_images:
        raise RuntimeError(f"{server.name} gives {cost.images} of {n_images} images as {name}")
    print(f"  {server.name}, {name}: {cost.rate:.0f}/s, {cost.cpu:.2f} CPU s", file=sys.stderr, flush=True)
    return cost


def print_table(costs: dict[tuple[str, str], list[Cost]]) -> None:
    """Print a line for each server and syntax."""
    print(
        "| transfer syntax | server | images/s | ratio to Orthanc's JPEG-LS | CPU ms each | ratio | bytes |"
    )
    print("|---|---|---|---|---|---|---|")
    reference = costs[REFERENCE]
    size = max(cost.size for values in costs.values() for cost in values)
    for name in SYNTAXES:
        for (server, syntax), own in costs.items():
            if syntax != name:
                continue
            pairs = list(zip(own, reference, strict=True))
            cells = [
                name,
                server,
                f"{median(cost.rate for cost in own):.0f}",
                f"{median(a.rate / b.rate for a, b in pairs):.2f}",
                f"{median(1000 * cost.cpu / cost.images for cost in own):.1f}",
                f"{median(a.cpu / b.cpu for a, b in pairs):.2f}",
                f"{own[0].size / size:.2f}",
            ]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
