"""The node beside Orthanc and dcmqrscp: ingest, retrieval, query; the same sender for all, in one run.

    python -m bench.node [--quick] [--only NAME ...] [--json FILE]

As root, on Linux, with Debian's `orthanc` and `dcmtk`: the servers run in a network namespace of their
own, because Orthanc and dcmqrscp cannot be told to listen on the loopback address only. Wall times are
noisy on shared machines: every ratio is the median over adjacent runs in alternating order.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench import node_workloads as workloads
from bench.node_measure import Cost, find_studies, get_series, get_series_by_getscu, store
from bench.node_peers import (
    Dcmpress,
    DcmpressBusy,
    DcmpressDecoding,
    DcmpressMemory,
    DcmpressSettled,
    DcmpressTwo,
    Dcmqrscp,
    Orthanc,
    Server,
)
from bench.node_report import Run, print_report
from bench.node_workloads import Instance

_WARM_UP = 90_000_000
"""Tokens of what is sent before the clock runs; measured runs count from 0."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller loads, under two minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument(
        "--folder", type=Path, help="where the servers keep their data (default: a temporary folder)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single measurement there")
    arguments = parser.parse_args()
    into_own_network("bench.node")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are stopped on the way out
    runs: list[Run] = []
    for name in arguments.only or WORKLOADS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-node-", dir=arguments.folder) as folder:
            started = time.monotonic()
            runs += WORKLOADS[name](name, Path(folder), arguments.quick)
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print_report(runs)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))


def into_own_network(module: str) -> None:
    """Go on, as `python -m module`, in a network namespace that has nothing but the loopback interface."""
    if "DCMPRESS_BENCH_NETWORK" not in os.environ:
        os.environ["DCMPRESS_BENCH_NETWORK"] = "own"
        os.execvp("unshare", ["unshare", "-n", sys.executable, "-m", module, *sys.argv[1:]])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


# Workloads


def _ingest(
    name: str,
    folder: Path,
    instances: Sequence[Instance],
    *,
    associations: int,
    repeats: int,
    kinds: Sequence[type[Server]] = (Dcmpress, Orthanc, Dcmqrscp),
) -> list[Run]:
    warm_up = workloads.ct_series(20)
    with servers_in(folder, kinds) as servers:
        for server in servers:
            store(server, warm_up, _WARM_UP)
        before = {server.name: server.disk_bytes() for server in servers}

        def measure(server: Server, repeat: int) -> Cost:
            return store(server, instances, repeat, associations)

        runs = _alternating(name, servers, repeats, measure)
        sent = repeats * sum(len(instance.data) for instance in instances)
        for server in servers:
            for run in runs:
                if run.server == server.name:
                    run.disk = (server.disk_bytes() - before[server.name]) / sent
    return runs


def _ct_one(name: str, folder: Path, quick: bool) -> list[Run]:
    series = workloads.ct_series(200 if quick else 600)
    return _ingest(name, folder, series, associations=1, repeats=3)


def _ct_four(name: str, folder: Path, quick: bool) -> list[Run]:
    # dcmqrscp is left out: with several associations it loses instances that it has acknowledged.
    series = workloads.ct_series(200 if quick else 600)
    return _ingest(name, folder, series, associations=4, repeats=3, kinds=(Dcmpress, DcmpressTwo, Orthanc))


def _ct_busy(name: str, folder: Path, quick: bool) -> list[Run]:
    series = workloads.ct_series(200 if quick else 600)
    return _ingest(name, folder, series, associations=1, repeats=3, kinds=(DcmpressBusy, Dcmpress, Orthanc))


def _mr_small(name: str, folder: Path, quick: bool) -> list[Run]:
    return _ingest(name, folder, workloads.mr_series(500 if quick else 2000), associations=1, repeats=3)


def _one_large(name: str, folder: Path, quick: bool) -> list[Run]:
    return _ingest(name, folder, workloads.multi_frame(400), associations=1, repeats=1 if quick else 3)


def _get(name: str, folder: Path, quick: bool) -> list[Run]:
    series = workloads.ct_series(150 if quick else 600)
    kinds = (DcmpressSettled, DcmpressMemory, DcmpressDecoding, Orthanc, Dcmqrscp)
    with servers_in(folder, kinds) as servers:
        for server in servers:
            store(server, series, 0)
        wait_until_compressed(servers)
        for server in servers:
            if isinstance(server, DcmpressMemory):
                get_series(server, workloads.CT, 0)  # so that each measured round finds it in memory

        def measure(server: Server, _: int) -> Cost:
            cost = get_series(server, workloads.CT, 0)
            if cost.images != len(series):
                raise RuntimeError(f"{server.name} gives {cost.images} of {len(series)} images")
            return cost

        def measure_getscu(server: Server, _: int) -> Cost:
            return get_series_by_getscu(server, 0, len(series), sum(len(i.data) for i in series))

        runs = _alternating(name, servers, 3, measure)
        runs += _alternating(f"{name}, by getscu", servers, 3, measure_getscu)
        for run in runs:
            run.disk = next(s for s in servers if s.name == run.server).disk_bytes() / runs[0].cost.size
    return runs


def _find(name: str, folder: Path, quick: bool) -> list[Run]:
    images = workloads.mr_series(2)
    tokens = range(100)
    with servers_in(folder, (Dcmpress, Orthanc, Dcmqrscp)) as servers:
        for server in servers:
            store(server, [image.renamed(token) for token in tokens for image in images], None)
        return _alternating(name, servers, 3, lambda server, _: find_studies(server, tokens))


WORKLOADS: dict[str, Callable[[str, Path, bool], list[Run]]] = {
    "CT, one association": _ct_one,
    "CT, four associations": _ct_four,
    "CT, while compressing": _ct_busy,
    "MR 128x128": _mr_small,
    "one object of 210 MB": _one_large,
    "C-GET of a CT series": _get,
    "C-FIND of a study": _find,
}


@contextmanager
def servers_in(folder: Path, kinds: Sequence[type[Server]]) -> Iterator[list[Server]]:
    """Lend running servers, each with a folder of its own."""
    servers: list[Server] = []
    try:
        for kind in kinds:
            servers.append(kind(folder / kind.__name__))
        yield servers
    finally:
        for server in servers:
            server.stop()


def _alternating(
    name: str, servers: Sequence[Server], repeats: int, measure: Callable[[Server, int], Cost]
) -> list[Run]:
    """Measure each server `repeats` times; every other round in reverse order."""
    runs = []
    for repeat in range(repeats):
        for server in servers if repeat % 2 == 0 else list(reversed(servers)):
            os.sync()  # nobody's flush is to pay for what another server left unwritten
            cost = measure(server, repeat)
            runs.append(Run(name, server.name, repeat, cost, server.peak, server.idle_rss))
            print(f"  {server.name}: {cost.rate:.0f}/s, {cost.cpu:.2f} CPU s", file=sys.stderr, flush=True)
    return runs


def wait_until_compressed(servers: Sequence[Server], timeout: float = 900) -> None:
    """Wait until nothing waits in a spool of ours."""
    deadline = time.monotonic() + timeout
    for server in servers:
        while isinstance(server, Dcmpress) and not server.compressed():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not compressed after {timeout:.0f} s: {server.log_tail()}")
            time.sleep(0.2)


if __name__ == "__main__":
    main()
