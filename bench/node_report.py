"""The table of a benchmark run, in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.node_measure import Cost

REFERENCE = "Orthanc"


@dataclass
class Run:
    """One server's measurement in one round of a workload."""

    workload: str
    server: str
    repeat: int
    cost: Cost
    peak: int
    """Largest resident set until now, in bytes."""
    idle: int
    """Resident set before the first image, in bytes."""
    disk: float = 0.0
    """Bytes on disk per byte sent."""


def print_report(runs: Sequence[Run]) -> None:
    """Print a line for each workload and server; ratios are medians over the rounds."""
    print(
        "| workload | server | per second | MB/s | ratio to Orthanc | CPU ms each | ratio | latency ms "
        "| peak RSS MiB (over idle) | bytes on disk |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for workload in dict.fromkeys(run.workload for run in runs):
        of_workload = [run for run in runs if run.workload == workload]
        for server in dict.fromkeys(run.server for run in of_workload):
            own = [run for run in of_workload if run.server == server]
            reference = {run.repeat: run for run in of_workload if run.server == REFERENCE}
            print(_line(workload, server, own, reference))


def _line(workload: str, server: str, own: Sequence[Run], reference: dict[int, Run]) -> str:
    costs = [run.cost for run in own]
    pairs = [(run.cost, reference[run.repeat].cost) for run in own]
    rate = median(cost.rate for cost in costs)
    cells = [
        workload,
        server,
        f"{rate:.0f}" if rate >= 10 else f"{rate:.2f}",
        f"{median(cost.size / cost.seconds for cost in costs) / 1e6:.0f}" if costs[0].size else "",
        f"{median(a.rate / b.rate for a, b in pairs):.2f}",
        f"{median(1000 * cost.cpu / cost.images for cost in costs):.2f}",
        f"{median(a.cpu / max(b.cpu, 1e-3) for a, b in pairs):.2f}",
        f"{median(cost.median_ms for cost in costs):.2f}" if costs[0].latencies else "",
        f"{own[-1].peak / 2**20:.0f} ({(own[-1].peak - own[-1].idle) / 2**20:+.0f})",
        f"{own[-1].disk:.2f}" if own[-1].disk else "",
    ]
    return "| " + " | ".join(cells) + " |"
