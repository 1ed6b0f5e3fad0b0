"""One measurement each: a number of images sent, fetched or looked for, and what the server spent on it."""

import multiprocessing
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.synchronize import Barrier
from statistics import median
from threading import BrokenBarrierError
from typing import Any

from bench.node_client import (
    CALLING_AE,
    EXPLICIT,
    IMPLICIT,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    Client,
    Proposal,
    find_command,
    get_command,
    store_command,
)
from bench.node_peers import ENVIRONMENT, Server
from bench.node_workloads import Instance, identifier, patient_id, series_uid, study_uid

_FORK = multiprocessing.get_context("fork")  # the senders share what was prepared


@dataclass
class Cost:
    """What one measurement took."""

    seconds: float
    images: int
    size: int
    """Bytes of their data sets."""
    cpu: float = 0.0
    """CPU seconds of the server's processes."""
    own_cpu: float = 0.0
    """Those of the serving process alone."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, of each request."""

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def median_ms(self) -> float:
        """Median latency in milliseconds."""
        return 1000 * median(self.latencies)


def store(server: Server, instances: Sequence[Instance], token: int | None, associations: int = 1) -> Cost:
    """Send the instances, renamed to `token`, spread over associations, each in a process of its own."""
    barrier = _FORK.Barrier(associations + 1)
    queue: Any = _FORK.Queue()
    renamed = [instance if token is None else instance.renamed(token) for instance in instances]
    senders = [
        _FORK.Process(
            target=_send, args=(server.port, server.ae_title, renamed[k::associations], barrier, queue)
        )
        for k in range(associations)
    ]
    for sender in senders:
        sender.start()
    with suppress(BrokenBarrierError):  # the queue tells why
        barrier.wait(120)
    cpu, own, started = server.cpu_seconds(), server.own_cpu_seconds(), time.perf_counter()
    problems = [queue.get(timeout=900) for _ in senders]
    seconds = time.perf_counter() - started
    for sender in senders:
        sender.join()
    if any(problems):
        raise RuntimeError(f"{server.name}: {[p for p in problems if p]}; {server.log_tail()}")
    time.sleep(0.1)  # CPU time of a child counts once it was waited for
    size = sum(len(instance.data) for instance in renamed)
    return Cost(seconds, len(renamed), size, server.cpu_seconds() - cpu, server.own_cpu_seconds() - own)


def _send(port: int, ae_title: str, instances: Sequence[Instance], barrier: Barrier, queue: Any) -> None:
    try:
        classes = sorted({instance.sop_class_uid for instance in instances})
        client = Client(port, ae_title, [Proposal(uid) for uid in classes])
        messages = [
            client.message(
                instance.sop_class_uid,
                store_command(instance.sop_class_uid, instance.sop_instance_uid, number % 65535 + 1),
                instance.data,
            )
            for number, instance in enumerate(instances)
        ]
        barrier.wait(120)
        client.store(messages)
        queue.put("")
        client.release()
    except Exception as error:
        queue.put(repr(error))
        barrier.abort()


def get_series(server: Server, sop_class_uid: str, token: int, transfer_syntax: str = EXPLICIT) -> Cost:
    """Fetch the series of `token` by C-GET in one transfer syntax; the receiver drops the bytes."""
    proposals = [
        Proposal(STUDY_ROOT_GET, (IMPLICIT,)),
        Proposal(sop_class_uid, (transfer_syntax,), receives=True),
    ]

    def fill(ds: Any) -> None:
        ds.QueryRetrieveLevel = "SERIES"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid(token), series_uid(token)
        ds.PatientID = patient_id(token)

    with Client(server.port, server.ae_title, proposals) as client:
        message = client.message(STUDY_ROOT_GET, get_command(1), identifier(fill))
        cpu, own = server.cpu_seconds(), server.own_cpu_seconds()
        seconds, images, size = client.get(message)
    return Cost(seconds, images, size, server.cpu_seconds() - cpu, server.own_cpu_seconds() - own)


def get_series_by_getscu(server: Server, token: int, images: int, size: int) -> Cost:
    """Fetch the series of `token`, whose images and bytes are known, by DCMTK's getscu, which drops them."""
    keys = {
        "QueryRetrieveLevel": "SERIES",
        "PatientID": patient_id(token),
        "StudyInstanceUID": study_uid(token),
        "SeriesInstanceUID": series_uid(token),
    }
    command = ["getscu", "-S", "--ignore", "-aet", CALLING_AE, "-aec", server.ae_title]
    for key, value in keys.items():
        command += ["-k", f"{key}={value}"]
    cpu, own, started = server.cpu_seconds(), server.own_cpu_seconds(), time.perf_counter()
    subprocess.run([*command, "127.0.0.1", str(server.port)], env=ENVIRONMENT, check=True)
    seconds = time.perf_counter() - started
    return Cost(seconds, images, size, server.cpu_seconds() - cpu, server.own_cpu_seconds() - own)


def find_studies(server: Server, tokens: Sequence[int]) -> Cost:
    """Look for the study of each of `tokens` by Patient ID, one after the other on one association."""
    with Client(server.port, server.ae_title, [Proposal(STUDY_ROOT_FIND, (IMPLICIT,))]) as client:
        messages = [
            client.message(STUDY_ROOT_FIND, find_command(number + 1), identifier(partial(_study_keys, token)))
            for number, token in enumerate(tokens)
        ]
        cpu, own, started = server.cpu_seconds(), server.own_cpu_seconds(), time.perf_counter()
        latencies = []
        for message in messages:
            latency, matches = client.find(message)
            if matches != 1:
                raise RuntimeError(f"{server.name} finds {matches} studies instead of one")
            latencies.append(latency)
        seconds = time.perf_counter() - started
    return Cost(
        seconds, len(tokens), 0, server.cpu_seconds() - cpu, server.own_cpu_seconds() - own, latencies
    )


def _study_keys(token: int, ds: Any) -> None:
    ds.QueryRetrieveLevel = "STUDY"
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.PatientName = ds.StudyDescription = ""
    ds.StudyInstanceUID = ds.StudyID = ds.ModalitiesInStudy = ""
    ds.PatientID = patient_id(token)
