"""Hours of mixed work at twice a CT scanner's rate; memory, file descriptors, threads and backlog over time.

    python -m bench.soak --minutes 120 [--folder DIR] [--csv FILE] [--figure FILE]
    python -m bench.soak --draw FILE --figure FILE      the figure again, from samples taken before

A CT scanner that is never idle is taken to make one slice a second: six examinations of 600 slices in an hour.
Two of them send here, each a series of 100 slices (512 x 512) as fast as the node takes it, every 100 s; and
an MR scanner, 60 images (128 x 128) every 60 s. Meanwhile somebody asks for a study once a second and fetches
a random series every 30 s, whose bytes are counted; the node compresses as it is shipped (`balanced`). At the
end everything is decoded and compared with its SHA-256 of receipt by `dcmpress verify`.
"""

import argparse
import csv
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tests.nodes import Node

from bench.node_client import (
    IMPLICIT,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    Client,
    Proposal,
    find_command,
    get_command,
    store_command,
)
from bench.node_workloads import (
    Instance,
    ct_series,
    identifier,
    mr_series,
    patient_id,
    series_uid,
    study_uid,
)

SAMPLE_SECONDS = 5.0
AS_SHIPPED = {"settle_seconds": 10}, {"rules": [{"codec": "interframe", "effort": "balanced"}]}


@dataclass
class Sample:
    """One line of the CSV; memory in MiB."""

    seconds: float
    received: int
    backlog: int
    """Instances in the spool."""
    node_rss: float
    node_fds: int
    node_threads: int
    workers_rss: float
    workers_fds: int
    find_ms: float
    """Median latency of the queries since the last sample; 0 if there were none."""
    retrieved: int
    problems: int
    """Warnings and errors in the node's log so far, and what clients complained of."""


class Load:
    """The scanners and the workstation."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received = self.retrieved = 0
        self.latencies: list[float] = []
        self.problems: list[str] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._sent: list[tuple[int, str, int, int]] = []  # token, SOP class, images, bytes
        self._token = 0
        jobs: list[tuple[Callable[[], None], float]] = [
            (partial(self._send, ct_series(100)), 100.0),
            (partial(self._send, ct_series(100)), 100.0),
            (partial(self._send, mr_series(60)), 60.0),
            (self._query, 1.0),
            (self._fetch, 30.0),
        ]
        self.threads = [
            threading.Thread(target=self._every, args=(job, seconds, k), daemon=True)
            for k, (job, seconds) in enumerate(jobs)
        ]

    def _every(self, job: Callable[[], None], seconds: float, number: int) -> None:
        due = time.monotonic() + 7.0 * number
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            try:
                job()
            except Exception as error:
                with self._lock:
                    self.problems.append(f"{type(error).__name__}: {error}")
            due = max(due + seconds, time.monotonic())

    def _send(self, series: Sequence[Instance]) -> None:
        with self._lock:
            self._token += 1
            token = self._token
        renamed = [instance.renamed(token) for instance in series]
        sop_class = renamed[0].sop_class_uid
        with Client(self.port, "DCMPRESS", [Proposal(sop_class)]) as client:
            for number, instance in enumerate(renamed, 1):
                command = store_command(sop_class, instance.sop_instance_uid, number)
                client.store([client.message(sop_class, command, instance.data)])
                with self._lock:
                    self.received += 1
        with self._lock:
            self._sent.append((token, sop_class, len(renamed), sum(len(i.data) for i in renamed)))

    def _any_sent(self) -> tuple[int, str, int, int] | None:
        with self._lock:
            return random.choice(self._sent) if self._sent else None

    def _query(self) -> None:
        sent = self._any_sent()
        if sent is None:
            return
        with Client(self.port, "DCMPRESS", [Proposal(STUDY_ROOT_FIND, (IMPLICIT,))]) as client:
            keys = identifier(partial(_study_keys, sent[0]))
            seconds, matches = client.find(client.message(STUDY_ROOT_FIND, find_command(1), keys))
        if matches != 1:
            raise RuntimeError(f"{matches} studies found instead of one")
        with self._lock:
            self.latencies.append(seconds)

    def _fetch(self) -> None:
        sent = self._any_sent()
        if sent is None:
            return
        token, sop_class, images, size = sent
        proposals = [Proposal(STUDY_ROOT_GET, (IMPLICIT,)), Proposal(sop_class, receives=True)]
        with Client(self.port, "DCMPRESS", proposals) as client:
            keys = identifier(partial(_series_keys, token))
            _, n, n_bytes = client.get(client.message(STUDY_ROOT_GET, get_command(1), keys))
        if (n, n_bytes) != (images, size):
            raise RuntimeError(f"{n} images of {n_bytes} bytes retrieved, {images} of {size} were sent")
        with self._lock:
            self.retrieved += n

    def taken_latencies(self) -> list[float]:
        """Return the latencies of queries since the last call."""
        with self._lock:
            taken, self.latencies = self.latencies, []
        return taken


def _study_keys(token: int, ds: Any) -> None:
    ds.QueryRetrieveLevel = "STUDY"
    ds.StudyDate = ds.PatientName = ds.StudyInstanceUID = ds.ModalitiesInStudy = ""
    ds.PatientID = patient_id(token)


def _series_keys(token: int, ds: Any) -> None:
    ds.QueryRetrieveLevel = "SERIES"
    ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = (
        patient_id(token),
        study_uid(token),
        series_uid(token),
    )


class Watch:
    """What the operating system says of the node and its workers."""

    def __init__(self, node: Node, load: Load) -> None:
        assert node.process is not None
        self.pid = node.process.pid
        self.spool = node.data / "spool"
        self.load = load
        self._log = node.log_file.open()
        self._complaints = 0
        self._started = time.monotonic()

    def sample(self) -> Sample:
        """Look once."""
        own, workers = _process(self.pid), [_process(pid) for pid in _descendants(self.pid)]
        self._complaints += sum(
            '"level": "warning"' in line or '"level": "error"' in line for line in self._log
        )
        latencies = self.load.taken_latencies()
        return Sample(
            seconds=round(time.monotonic() - self._started, 1),
            received=self.load.received,
            backlog=sum(1 for _ in self.spool.glob("*.dcm")),
            node_rss=own[0],
            node_fds=own[1],
            node_threads=own[2],
            workers_rss=round(sum(worker[0] for worker in workers), 1),
            workers_fds=sum(worker[1] for worker in workers),
            find_ms=round(1000 * median(latencies), 2) if latencies else 0.0,
            retrieved=self.load.retrieved,
            problems=self._complaints + len(self.load.problems),
        )


def _process(pid: int) -> tuple[float, int, int]:
    """Return (MiB resident, open files, threads) of a process; zeros if it has ended."""
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        rss = int(status.get("VmRSS", "0 kB").split()[0]) / 1024
        return round(rss, 1), len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"])
    except (OSError, ValueError):
        return 0.0, 0, 0


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def soak(minutes: float, folder: Path, file: Path) -> list[Sample]:
    """Run the load for so long; return the samples, which are written as they come."""
    pipeline, compression = AS_SHIPPED
    samples: list[Sample] = []
    with (
        Node(folder / "node", pipeline=pipeline, compression=compression) as node,
        file.open("w", newline="") as out,
    ):
        writer = csv.DictWriter(out, [field.name for field in fields(Sample)])
        writer.writeheader()
        load = Load(node.port)
        watch = Watch(node, load)
        for thread in load.threads:
            thread.start()
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            samples.append(watch.sample())
            writer.writerow(asdict(samples[-1]))
            out.flush()
            time.sleep(SAMPLE_SECONDS)
        load.stopping.set()
        for thread in load.threads:
            thread.join(120)
        node.drained(3600)
        for problem in load.problems:
            print("client:", problem)
        for event in node.events():
            if event.get("level") in ("warning", "error"):
                print("log:", event)
        verified = node.command("verify", check=False, timeout=4 * 3600)
        print(f"verify: exit code {verified.returncode}: {verified.stdout.strip()[-300:]}")
    return samples


def read(file: Path) -> list[Sample]:
    """Return samples written before."""
    with file.open(newline="") as lines:
        return [
            Sample(**{f.name: f.type(row[f.name]) for f in fields(Sample)})  # type: ignore[operator]
            for row in csv.DictReader(lines)
        ]


def summary(samples: Sequence[Sample]) -> str:
    """Return what the samples say, in a few lines; slopes by least squares over the second half."""
    last = samples[-1]
    half = [s for s in samples if s.seconds >= last.seconds / 2]
    hours = np.array([s.seconds for s in half]) / 3600

    def line(name: str, unit: str) -> str:
        values = np.array([getattr(s, name) for s in half], float)
        slope = np.polyfit(hours, values, 1)[0]
        return f"  {name:13} median {np.median(values):8.1f}  most {values.max():8.1f} {unit}  {slope:+.1f} an hour"

    waits = [s.find_ms for s in samples if s.find_ms]
    return "\n".join(
        [
            f"{last.seconds / 60:.0f} minutes, {last.received} instances received, {last.retrieved} retrieved, "
            f"{last.problems} problems; queries took {median(waits):.1f} ms (median); second half:",
            *(line(name, "MiB") for name in ("node_rss", "workers_rss")),
            *(line(name, "") for name in ("node_fds", "node_threads", "workers_fds", "backlog")),
        ]
    )


def draw(samples: Sequence[Sample], figure: Path) -> None:
    """Draw memory, file descriptors and threads, and backlog over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    minutes = [s.seconds / 60 for s in samples]
    panels: list[tuple[str, list[tuple[str, str]]]] = [
        ("resident, MiB", [("node", "node_rss"), ("workers", "workers_rss")]),
        (
            "open files, threads",
            [
                ("files, node", "node_fds"),
                ("files, workers", "workers_fds"),
                ("threads, node", "node_threads"),
            ],
        ),
        ("instances in the spool", [("", "backlog")]),
    ]
    chart, axes = plt.subplots(len(panels), 1, figsize=(8, 7), sharex=True)
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for label, name in lines:
            axis.plot(minutes, [getattr(s, name) for s in samples], label=label, linewidth=1)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if lines[0][0]:
            axis.legend(loc="lower right", ncols=3, fontsize="small")
    axes[-1].set_xlabel("minutes")
    chart.tight_layout()
    chart.savefig(figure, dpi=110)


def main() -> None:
    """Soak, or draw what a soak has measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument(
        "--folder", type=Path, help="where the node keeps its data (default: a temporary folder)"
    )
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--draw", type=Path, metavar="CSV", help="measure nothing, draw these samples")
    options = parser.parse_args()
    if options.draw:
        samples = read(options.draw)
    else:
        with tempfile.TemporaryDirectory(prefix="soak-", dir=options.folder) as folder:
            samples = soak(options.minutes, Path(folder), options.csv)
    print(summary(samples))
    if options.figure:
        draw(samples, options.figure)


if __name__ == "__main__":
    main()
