"""Storage commitment, asked for by pynetdicom: the answer is true instance by instance and gets through."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from dcmpress.storage.transcode import encode
from tests.corpus_files import data_set, series_files
from tests.nodes import Node, free_port, send_unchanged
from tests.scp.wire import IMPLICIT, VERIFICATION, Wire, command_set, echo_rq, number, wait_for

COMMITMENT = "1.2.840.10008.1.20.1"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"


class Requestor:
    """A modality: asks for commitment, and takes reports on the same or on a new association."""

    def __init__(self, title: str = "MODALITY") -> None:
        self.reports: list[tuple[int, Dataset, bool]] = []
        self.arrived = threading.Event()
        self.ae = AE(ae_title=title)

    def on_report(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information, event.assoc.is_acceptor))
        self.arrived.set()
        return 0x0000, None

    @contextmanager
    def listening(self, port: int) -> Iterator[None]:
        ae = AE(ae_title="MODALITY")
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        try:
            yield
        finally:
            server.shutdown()

    def ask(self, port: int, references: list[tuple[str, str]], *, stay: bool = False) -> tuple[int, str]:
        """Return (status of the N-ACTION response, transaction UID)."""
        self.ae.requested_contexts = []
        self.ae.add_requested_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        association = self.ae.associate("127.0.0.1", port, ae_title="DCMPRESS", evt_handlers=handlers)
        assert association.is_established
        request = Dataset()
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = DicomSequence([item(*reference) for reference in references])
        status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, WELL_KNOWN)
        if stay:
            assert self.arrived.wait(10)
        association.release()
        return status.Status, str(request.TransactionUID)


def item(sop_class: str, uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class
    reference.ReferencedSOPInstanceUID = uid
    return reference


def uids(report: Dataset, keyword: str) -> list[str]:
    return [str(entry.ReferencedSOPInstanceUID) for entry in report.get(keyword, [])]


def stored(node: Node, n: int = 2) -> list[tuple[str, str]]:
    paths = series_files("MR-GE-fMRI")[:n]
    assert set(send_unchanged(node.port, paths).values()) == {0}
    return [(data_set(p)[0].sop_class_uid, data_set(p)[0].sop_instance_uid) for p in paths]


def test_without_an_address_the_report_comes_on_the_same_association(node: Node) -> None:
    kept = stored(node)
    modality = Requestor()
    status, transaction = modality.ask(node.port, kept, stay=True)
    assert status == 0
    ((event_type, report, accepted),) = modality.reports
    assert (event_type, accepted) == (1, False)
    assert report.TransactionUID == transaction
    assert uids(report, "ReferencedSOPSequence") == [uid for _, uid in kept]
    assert "FailedSOPSequence" not in report


def commitment_rq(transaction: str, reference: tuple[str, str]) -> bytes:
    """Return the data set of a request, in implicit VR little endian."""
    request = Dataset()
    request.TransactionUID = transaction
    request.ReferencedSOPSequence = DicomSequence([item(*reference)])
    return encode(request, IMPLICIT)


def test_requests_may_cross_reports_and_a_refused_report_ends_nothing(node: Node) -> None:
    (reference,) = stored(node, 1)
    action = command_set({3: COMMITMENT, 0x100: 0x130, 0x110: 5, 0x800: 1, 0x1001: WELL_KNOWN, 0x1008: 1})
    with Wire(node.port) as wire:
        wire.associate([(COMMITMENT, [IMPLICIT]), (VERIFICATION, [IMPLICIT])])
        wire.send(wire.message(1, action, commitment_rq("1.2.3.1", reference)))
        assert wire.status() == 0
        # The report on the first is on its way to us when we ask for the second, and for an echo.
        wire.send(wire.message(1, action, commitment_rq("1.2.3.2", reference)))
        wire.send(wire.message(3, echo_rq(6)))
        reports: list[tuple[int, bytes]] = []
        statuses = []
        for answer in (0, 0x0110):
            while not reports or len(reports) < 1 + (answer != 0):
                _, command, data = wire.read_message()
                if number(command, 0x100) == 0x0100:
                    reports.append((number(command, 0x110), data))
                else:
                    statuses.append(number(command, 0x900))
            response = {0x100: 0x8100, 0x120: reports[-1][0], 0x800: 0x101, 0x900: answer, 0x1002: 1}
            wire.send(wire.message(1, command_set({2: COMMITMENT, 0x1000: WELL_KNOWN, **response})))
        assert statuses == [0, 0]
        assert [b"1.2.3.1" in data for _, data in reports] == [True, False]
        assert b"1.2.3.2" in reports[1][1]
        wire.send(wire.message(3, echo_rq(7)))
        assert wire.status() == 0
        wire.release()
    assert "1.2.3.1" in [event["transaction"] for event in node.events("commitment reported")]
    assert "0110" in node.events("commitment not reported")[-1]["problem"]


def test_a_silent_peer_holds_up_neither_the_others_nor_the_end(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        where = {"MODALITY": port, "SILENT": silent.getsockname()[1]}
        peers = {
            title: {"ae_title": title, "host": "127.0.0.1", "port": number} for title, number in where.items()
        }
        node = Node(tmp_path / "node", dicom={"peers": peers, "association_timeout": 3}).start()
        kept = stored(node)
        quiet, modality = Requestor("SILENT"), Requestor()
        for _ in range(5):
            assert quiet.ask(node.port, kept)[0] == 0
        assert wait_for(lambda: node.events("commitment not reported"))
        assert {e["requestor"] for e in node.events("commitment not reported")} == {"SILENT"}
        with modality.listening(port):
            assert modality.ask(node.port, kept)[0] == 0
            assert modality.arrived.wait(8)
        node.reload(dicom={"association_timeout": 60})
        assert quiet.ask(node.port, kept)[0] == 0
        time.sleep(2)
        started = time.monotonic()
        node.stop()
        assert time.monotonic() - started < 20


def test_a_known_peer_gets_the_truth_on_a_new_association(tmp_path: Path) -> None:
    port = free_port()
    peers = {"modality": {"ae_title": "MODALITY", "host": "127.0.0.1", "port": port}}
    with Node(tmp_path / "node", dicom={"peers": peers}) as node:
        kept = stored(node)
        modality = Requestor()
        wrong_class = ("1.2.840.10008.5.1.4.1.1.2", kept[1][1])
        with modality.listening(port):
            status, transaction = modality.ask(
                node.port, [kept[0], wrong_class, ("1.2.840.10008.5.1.4.1.1.4", "1.2.3")]
            )
            assert status == 0
            assert modality.arrived.wait(15)
        ((event_type, report, accepted),) = modality.reports
        assert (event_type, accepted) == (2, True)
        assert report.TransactionUID == transaction
        assert uids(report, "ReferencedSOPSequence") == [kept[0][1]]
        reasons = {str(e.ReferencedSOPInstanceUID): e.FailureReason for e in report.FailedSOPSequence}
        assert reasons == {kept[1][1]: 0x0119, "1.2.3": 0x0112}


def test_a_request_survives_a_restart(tmp_path: Path) -> None:
    port = free_port()
    peers = {"modality": {"ae_title": "MODALITY", "host": "127.0.0.1", "port": port}}
    node = Node(tmp_path / "node", dicom={"peers": peers}).start()
    kept = stored(node)
    modality = Requestor()
    status, _ = modality.ask(node.port, kept)  # nobody listens at the requestor's address yet
    assert status == 0
    node.stop(9)
    with modality.listening(port), node:
        assert modality.arrived.wait(30)
    assert uids(modality.reports[0][1], "ReferencedSOPSequence") == [uid for _, uid in kept]


def test_verified_means_decoded_from_its_blob(tmp_path: Path) -> None:
    port = free_port()
    dicom = {
        "peers": {"modality": {"ae_title": "MODALITY", "host": "127.0.0.1", "port": port}},
        "commitment": {"policy": "verified"},
    }
    with Node(tmp_path / "node", dicom=dicom, pipeline={"settle_seconds": 3}) as node:
        kept = stored(node)
        modality = Requestor()
        with modality.listening(port):
            assert modality.ask(node.port, kept)[0] == 0
            assert not modality.arrived.wait(2)
            assert modality.arrived.wait(60)
        assert not list((node.data / "spool").glob("*.dcm"))
        assert uids(modality.reports[0][1], "ReferencedSOPSequence") == [uid for _, uid in kept]


def test_what_is_no_request_is_refused(node: Node) -> None:
    modality = Requestor()
    assert modality.ask(node.port, [])[0] == 0x0115
    assert not modality.reports
