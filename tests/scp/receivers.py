"""pynetdicom as the one that gets images back: by C-GET, or as the destination of a C-MOVE."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, register_uid, uid_to_service_class

from tests.nodes import free_port, without_delay
from tests.scp.wire import STUDY_GET, STUDY_MOVE

Pair = tuple[str, str]
"""SOP class and transfer syntax."""


@dataclass
class Retrieved:
    """What came back."""

    data_sets: dict[str, bytes] = field(default_factory=dict)
    """SOP Instance UID -> encoded data set as it was on the wire."""
    syntaxes: dict[str, str] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    """C-STORE requests as they came."""
    responses: list[tuple[Dataset, Dataset | None]] = field(default_factory=list)
    """Status and identifier of each response to the C-GET or C-MOVE."""

    @property
    def final(self) -> Dataset:
        """The last response's status elements."""
        return self.responses[-1][0]

    @property
    def counts(self) -> tuple[int, int, int]:
        """(completed, failed, warnings) of the last response."""
        final = self.final
        return (
            final.NumberOfCompletedSuboperations,
            final.NumberOfFailedSuboperations,
            final.NumberOfWarningSuboperations,
        )

    @property
    def failed(self) -> list[str]:
        """Failed SOP Instance UID List of the last response."""
        identifier = self.responses[-1][1]
        value = identifier.FailedSOPInstanceUIDList if identifier else []
        return [str(value)] if isinstance(value, str) else sorted(map(str, value))

    def store(self, event: Any) -> int:
        """Handle a C-STORE."""
        uid = str(event.request.AffectedSOPInstanceUID)
        self.data_sets[uid] = event.encoded_dataset(include_meta=False)
        self.syntaxes[uid] = str(event.context.transfer_syntax)
        self.requests.append(event.request)
        return 0x0000


def at_level(level: str, **keys: Any) -> Dataset:
    """Return an identifier."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def register_classes(pairs: Iterable[Pair]) -> None:
    """Let pynetdicom receive storage classes that it does not know; it would abort the association."""
    for sop_class in {sop_class for sop_class, _ in pairs}:
        if uid_to_service_class(sop_class) is ServiceClass:
            register_uid(sop_class, "Unknown" + sop_class.replace(".", ""), StorageServiceClass)


def get(
    port: int,
    pairs: Iterable[Pair],
    identifier: Dataset,
    store: Callable[[Any], int] | None = None,
    message_id: int = 1,
    model: str = STUDY_GET,
) -> Retrieved:
    """Retrieve by C-GET, with a context of its own for each of at most 127 pairs."""
    ae = AE(ae_title="GETTER")
    ae.dimse_timeout = 60
    retrieved = Retrieved()
    pairs = sorted(set(pairs))
    register_classes(pairs)
    ae.requested_contexts = [build_context(model)] + [build_context(UID(c), UID(t)) for c, t in pairs]
    roles = [build_role(UID(sop_class), scp_role=True) for sop_class in sorted({c for c, _ in pairs})]
    association = ae.associate(
        "127.0.0.1",
        port,
        ae_title="DCMPRESS",
        ext_neg=roles,
        evt_handlers=[(evt.EVT_CONN_OPEN, without_delay), (evt.EVT_C_STORE, store or retrieved.store)],
    )
    assert association.is_established
    retrieved.responses = list(association.send_c_get(identifier, UID(model), msg_id=message_id))
    association.release()
    return retrieved


class Destination:
    """A storage SCP that a C-MOVE may send to."""

    def __init__(self, pairs: Iterable[Pair] = (), ae_title: str = "DEST", associations: int = 1) -> None:
        self.ae_title = ae_title
        self.n_associations = associations
        self.port = free_port()
        self.pairs = sorted(set(pairs))
        self.received = Retrieved()
        self.associations: list[list[Pair]] = []
        self.answer: Callable[[Any], int] = self.received.store
        self._lock = threading.Lock()

    @property
    def peer(self) -> dict[str, Any]:
        """Return its entry under dicom.peers."""
        return {
            "ae_title": self.ae_title,
            "host": "127.0.0.1",
            "port": self.port,
            "associations": self.n_associations,
        }

    def accept(self, pairs: Iterable[Pair]) -> None:
        """Accept these pairs of SOP class and transfer syntax from now on."""
        register_classes(pairs)
        by_class: dict[str, list[str]] = {str(Verification): [str(ImplicitVRLittleEndian)]}
        for sop_class, syntax in sorted(set(pairs)):
            by_class.setdefault(sop_class, []).append(syntax)
        self.server.contexts = [build_context(UID(c), [UID(t) for t in ts]) for c, ts in by_class.items()]

    def __enter__(self) -> "Destination":
        self.ae = ae = AE(ae_title=self.ae_title)
        ae.add_supported_context(Verification)
        handlers = [
            (evt.EVT_CONN_OPEN, without_delay),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_C_STORE, lambda event: self.answer(event)),
        ]
        self.server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.accept(self.pairs)
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()

    def _requested(self, event: Any) -> None:
        proposed = event.assoc.requestor.requested_contexts
        with self._lock:
            self.associations.append([(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in proposed])

    def reset(self) -> None:
        """Forget what came so far."""
        self.received = Retrieved()
        self.answer = self.received.store
        self.associations.clear()


def move(
    port: int,
    destination: str,
    identifier: Dataset,
    calling: str = "MOVER",
    message_id: int = 1,
    model: str = STUDY_MOVE,
) -> Retrieved:
    """Ask for a C-MOVE; return its responses."""
    ae = AE(ae_title=calling)
    ae.dimse_timeout = 60
    ae.add_requested_context(model)
    association = ae.associate(
        "127.0.0.1", port, ae_title="DCMPRESS", evt_handlers=[(evt.EVT_CONN_OPEN, without_delay)]
    )
    assert association.is_established
    retrieved = Retrieved()
    retrieved.responses = list(
        association.send_c_move(identifier, destination, UID(model), msg_id=message_id)
    )
    association.release()
    return retrieved


def image_level(uids: Sequence[str]) -> Dataset:
    """Return an identifier that asks for instances by their UIDs."""
    return at_level("IMAGE", SOPInstanceUID=list(uids))
