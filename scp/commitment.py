"""Storage Commitment Push Model as SCP (PS3.4 Annex J): N-ACTION in, N-EVENT-REPORT out.

A request is kept in the catalog before it is answered, and its report is sent until it gets through: over a
new association to the requestor if `dicom.peers` says where it listens (the only way that every requestor
understands, PS3.4 J.3.3), else over the requestor's own association while that is open.
"""

import threading
from collections import deque
from datetime import UTC, datetime, timedelta
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence as DicomSequence

from dcmpress.scp import negotiation
from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    ACTION_TYPE_ID,
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    DATA_SET_FOLLOWS,
    ERROR_COMMENT,
    EVENT_TYPE_ID,
    MESSAGE_ID,
    MESSAGE_ID_BEING_RESPONDED_TO,
    N_EVENT_REPORT_RQ,
    N_EVENT_REPORT_RSP,
    REQUESTED_SOP_INSTANCE_UID,
    STATUS,
    Command,
    number,
    response_to,
    text,
)
from dcmpress.scp.contexts import STORAGE_COMMITMENT
from dcmpress.scp.errors import NetworkError, ProtocolError, RefusedError
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.settings import Peer, ScpSettings
from dcmpress.scp.status import (
    COMMENT_LENGTH,
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_ACTION,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
    UNRECOGNISED_OPERATION,
)
from dcmpress.scp.upper_layer import UpperLayer
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.commitments import PendingCommitment
from dcmpress.storage.commitment import Judgement, judge
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, encoding_of
from dcmpress.storage.errors import StorageError
from dcmpress.storage.transcode import encode

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT = 1
"""Action Type ID (PS3.4 table J.3-1)."""
ALL_COMMITTED, FAILURES_EXIST = 1, 2
"""Event Type IDs (PS3.4 table J.3-2)."""

_BACK_OFF = (10, 60, 300, 1800, 7200)
"""Seconds until a report that did not get through is tried again; the last from then on."""

_GRACE = 5.0
"""Seconds that a report under way gets when the node stops."""


class ReportsHere:
    """Reports over the association of the requests: there is no other way to this requestor.

    The requestor may send other requests before it answers a report, as it does not know that one comes. It
    gets one report at a time, as no asynchronous operations were negotiated.
    """

    def __init__(self, archive: Archive, association: Association, settings: ScpSettings) -> None:
        self._archive = archive
        self._association = association
        self._settings = settings
        self._waiting: deque[tuple[Context, int]] = deque()
        self._sent: tuple[int, PendingCommitment, Judgement] | None = None
        self._message_id = 0

    def add(self, context: Context, pk: int) -> None:
        """Have a request reported."""
        self._waiting.append((context, pk))

    def send_next(self) -> None:
        """Send a report if there is one to send, and none that is not answered yet."""
        commitments = self._archive.catalog.commitments
        while self._waiting and self._sent is None:
            context, pk = self._waiting.popleft()
            now = datetime.now(UTC)
            pending = next((p for p in commitments.due(now) if p.pk == pk), None)
            if pending is None:
                continue
            judgement = judge(self._archive, pending.references, self._settings.commitment_policy)
            if judgement.undecided:
                continue  # the reporter waits; perhaps the admin adds the peer meanwhile
            # From now on it is not for the reporter, unless this comes to nothing.
            commitments.postpone(pk, now + timedelta(seconds=self._settings.response_timeout), failed=False)
            self._message_id = self._message_id % 0xFFFF + 1
            _send_report(self._association, context, pending, judgement, self._settings, self._message_id)
            self._sent = self._message_id, pending, judgement

    def answered(self, command: Command) -> bool:
        """Take the response to a report; False if it answers none of ours."""
        if self._sent is None or number(command, COMMAND_FIELD) != N_EVENT_REPORT_RSP:
            return False
        message_id, pending, judgement = self._sent
        if number(command, MESSAGE_ID_BEING_RESPONDED_TO) != message_id:
            return False
        self._sent = None
        try:
            _check_taken(command, pending, judgement)
        except RefusedError as error:
            logger.warning("commitment not reported", requestor=pending.requestor_ae, problem=str(error))
        else:
            self._archive.catalog.commitments.remove(pending.pk)
        return True


def serve_action(
    archive: Archive,
    association: Association,
    context: Context,
    command: Command,
    settings: ScpSettings,
    reports: ReportsHere,
) -> None:
    """Take a request for storage commitment; it is kept when this answers with success."""
    identifier = association.identifier()
    status, problem = SUCCESS, ""
    pending: tuple[str, list[tuple[str, str]]] | None = None
    if context.abstract_syntax != STORAGE_COMMITMENT:
        status, problem = UNRECOGNISED_OPERATION, "N-ACTION belongs to storage commitment"
    elif text(command, REQUESTED_SOP_INSTANCE_UID) != WELL_KNOWN_INSTANCE:
        status, problem = NO_SUCH_SOP_INSTANCE, f"storage commitment is asked of {WELL_KNOWN_INSTANCE}"
    elif number(command, ACTION_TYPE_ID) != REQUEST_COMMITMENT:
        status, problem = NO_SUCH_ACTION, "the only action is 1, request storage commitment"
    else:
        try:
            pending = _read_request(identifier, context.transfer_syntax)
        except Exception as error:  # pydicom raises whatever the data provokes
            status, problem = INVALID_ARGUMENT_VALUE, f"the request cannot be read: {type(error).__name__}"
    pk = 0
    if pending is not None:
        try:
            pk = archive.catalog.commitments.add(pending[0], association.calling_ae, pending[1])
        except StorageError as error:
            status, problem = PROCESSING_FAILURE, str(error)
    response = response_to(command, status)
    response[AFFECTED_SOP_CLASS_UID] = STORAGE_COMMITMENT
    response[AFFECTED_SOP_INSTANCE_UID] = WELL_KNOWN_INSTANCE
    response[ACTION_TYPE_ID] = number(command, ACTION_TYPE_ID)
    if problem:
        response[ERROR_COMMENT] = problem[:COMMENT_LENGTH]
    association.send(context, response)
    event = logger.info if status == SUCCESS else logger.warning
    event(
        "commitment requested",
        status=f"{status:04X}",
        transaction=pending[0] if pending else "",
        instances=len(pending[1]) if pending else 0,
        problem=problem,
    )
    if pk and association.calling_ae not in settings.known_peers:
        reports.add(context, pk)


def _read_request(identifier: bytes, transfer_syntax_uid: str) -> tuple[str, list[tuple[str, str]]]:
    """Return (transaction UID, references) of the action information (PS3.4 table J.3-1)."""
    encoding = encoding_of(transfer_syntax_uid)
    data_set = read_dataset(BytesIO(identifier), not encoding.explicit, encoding.little_endian)
    references = [
        (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
        for item in data_set.ReferencedSOPSequence
    ]
    if not references:
        raise ValueError("no instances are named")
    return str(data_set.TransactionUID), references


def _send_report(
    association: Association,
    context: Context,
    pending: PendingCommitment,
    judgement: Judgement,
    settings: ScpSettings,
    message_id: int = 1,
) -> None:
    """Send N-EVENT-REPORT."""
    association.send(
        context,
        {
            AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT,
            COMMAND_FIELD: N_EVENT_REPORT_RQ,
            MESSAGE_ID: message_id,
            COMMAND_DATA_SET_TYPE: DATA_SET_FOLLOWS,
            AFFECTED_SOP_INSTANCE_UID: WELL_KNOWN_INSTANCE,
            EVENT_TYPE_ID: FAILURES_EXIST if judgement.failed else ALL_COMMITTED,
        },
        [_report(pending, judgement, context.transfer_syntax, settings.ae_title)],
    )


def _check_taken(answer: Command, pending: PendingCommitment, judgement: Judgement) -> None:
    """Raise RefusedError unless the response to a report is success."""
    status = number(answer, STATUS, PROCESSING_FAILURE)
    if status != SUCCESS:
        raise RefusedError(f"the report is refused with status {status:04X}")
    logger.info(
        "commitment reported",
        transaction=pending.transaction_uid,
        requestor=pending.requestor_ae,
        committed=len(judgement.committed),
        failed=len(judgement.failed),
    )


def _report(pending: PendingCommitment, judgement: Judgement, syntax: str, ae_title: str) -> bytes:
    """Return the event information (PS3.4 table J.3-2)."""
    report = Dataset()
    report.RetrieveAETitle = ae_title
    report.TransactionUID = pending.transaction_uid
    if judgement.committed:
        report.ReferencedSOPSequence = DicomSequence([_reference(*ref) for ref in judgement.committed])
    if judgement.failed:
        report.FailedSOPSequence = DicomSequence([_reference(*ref) for ref in judgement.failed])
    if syntax in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        return encode(report, syntax)
    raise RefusedError(f"no report in transfer syntax {syntax}")


def _reference(sop_class: str, uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    if reason is not None:
        item.FailureReason = reason
    return item


class CommitmentReporter:
    """Sends reports over new associations, in a thread of its own, until they get through."""

    def __init__(self, archive: Archive, settings: ScpSettings) -> None:
        self.archive = archive
        self.settings = settings
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what is not reported yet is reported after the next start. A peer that is silent is not waited for."""
        self._stopping.set()
        self._thread.join(_GRACE)

    def _run(self) -> None:
        while not self._stopping.wait(self.settings.commitment_delay):
            silent: dict[str, NetworkError] = {}
            try:
                for pending in self.archive.catalog.commitments.due(datetime.now(UTC)):
                    if self._stopping.is_set():
                        return
                    self._answer(pending, silent)
            except Exception:
                if not self._stopping.is_set():
                    logger.exception("storage commitment failed; trying again")

    def _answer(self, pending: PendingCommitment, silent: dict[str, NetworkError]) -> None:
        """Report one request; who is in `silent` has not answered a moment ago and is not called again."""
        now = datetime.now(UTC)
        commitments = self.archive.catalog.commitments
        if now - pending.received_at > timedelta(hours=self.settings.commitment_hours):
            commitments.remove(pending.pk)
            logger.error("commitment given up", transaction=pending.transaction_uid)
            return
        judgement = judge(self.archive, pending.references, self.settings.commitment_policy)
        if judgement.undecided:
            commitments.postpone(pending.pk, now + timedelta(seconds=5), failed=False)
            return
        peer = self.settings.known_peers.get(pending.requestor_ae)
        try:
            if pending.requestor_ae in silent:
                raise silent[pending.requestor_ae]
            if peer is None:
                raise RefusedError(f"add {pending.requestor_ae} with host and port to dicom.peers")
            self._report(peer, pending, judgement)
            commitments.remove(pending.pk)
        except NetworkError as error:
            silent[pending.requestor_ae] = error
            pause = _BACK_OFF[min(pending.attempts, len(_BACK_OFF) - 1)]
            commitments.postpone(pending.pk, now + timedelta(seconds=pause), failed=True)
            logger.warning(
                "commitment not reported", requestor=pending.requestor_ae, problem=str(error), retry_in=pause
            )

    def _report(self, peer: Peer, pending: PendingCommitment, judgement: Judgement) -> None:
        settings = self.settings
        layer = UpperLayer(
            negotiation.connect(peer, settings.association_timeout, settings.tls_files), settings.pdu_timeout
        )
        try:
            negotiated = negotiation.request(
                layer,
                settings.ae_title,
                peer.ae_title,
                [(STORAGE_COMMITMENT, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN))],
                settings.max_pdu,
                settings.association_timeout,
                scp_of=(STORAGE_COMMITMENT,),
            )
            context = next(iter(negotiated.contexts.values()), None)
            if context is None:
                raise RefusedError(f"{peer.ae_title} does not take part in storage commitment")
            association = Association(layer, negotiated, peer.host, settings.response_timeout)
            _send_report(association, context, pending, judgement, settings)
            _, answer = association.receive()
            association.skip_data_set()
            if number(answer, COMMAND_FIELD) != N_EVENT_REPORT_RSP:
                raise ProtocolError("something else than the response to N-EVENT-REPORT")
            _check_taken(answer, pending, judgement)
            association.release()
        finally:
            layer.close()
