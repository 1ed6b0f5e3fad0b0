"""Storage commitment, asked for by pynetdicom: the answer is true instance by instance and gets through."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from tests.corpus_files import data_set, series_files
from tests.nodes import Node, free_port, send_unchanged

WELL_KNOWN = "1.2.840.10008.1.20.1.1"


class Requestor:
    """A modality: asks for commitment, and takes reports on the same or on a new association."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, Dataset, bool]] = []
        self.arrived = threading.Event()
        self.ae = AE(ae_title="MODALITY")

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
