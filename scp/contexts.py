"""Which abstract and transfer syntaxes the node takes part in, and in which order of preference."""

from functools import lru_cache

from pydicom.uid import UID
from pydicom.uid import UID_dictionary as REGISTERED_UIDS
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (
    CompositeInstanceRetrieveWithoutBulkDataGet,
    CompositeInstanceRootRetrieveGet,
    CompositeInstanceRootRetrieveMove,
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
    uid_to_service_class,
)

VERIFICATION = str(Verification)
STORAGE_COMMITMENT = str(StorageCommitmentPushModel)
FIND_CLASSES = frozenset(
    {str(PatientRootQueryRetrieveInformationModelFind), str(StudyRootQueryRetrieveInformationModelFind)}
)
WITHOUT_BULK_DATA = str(CompositeInstanceRetrieveWithoutBulkDataGet)
GET_CLASSES = frozenset(
    {
        str(CompositeInstanceRootRetrieveGet),
        WITHOUT_BULK_DATA,
        str(PatientRootQueryRetrieveInformationModelGet),
        str(StudyRootQueryRetrieveInformationModelGet),
    }
)
MOVE_CLASSES = frozenset(
    {
        str(CompositeInstanceRootRetrieveMove),
        str(PatientRootQueryRetrieveInformationModelMove),
        str(StudyRootQueryRetrieveInformationModelMove),
    }
)

BLOB_STORAGE = "2.25.170988866714304403936882708419669861787"
"""Our private SOP class: a blob, sent by C-STORE from node to node (docs/decisions/0004)."""
BLOB_FORMAT_1 = "2.25.209432324645544866121907749598707716959"
"""Our private transfer syntax: a blob file of format version 1 stands where the data set would."""

_COMPOSITE_STORAGE = "1.2.840.10008.5.1.4.1.1."
_RETIRED_ELSEWHERE = frozenset({f"1.2.840.10008.5.1.1.{n}" for n in (27, 29, 30)})
"""Stored print and hardcopy images: retired storage classes, which DCMTK still proposes."""
_PREFIX = "1.2.840.10008.1.2"
_FIRST = (
    f"{_PREFIX}.1",  # Explicit VR Little Endian: numbers as they are, which our codecs compress best
    _PREFIX,  # Implicit VR Little Endian
    f"{_PREFIX}.2",  # Explicit VR Big Endian
    f"{_PREFIX}.1.99",  # Deflated Explicit VR Little Endian
    f"{_PREFIX}.5",  # RLE Lossless
    f"{_PREFIX}.4.70",  # JPEG Lossless, first-order prediction
    f"{_PREFIX}.4.57",  # JPEG Lossless
    f"{_PREFIX}.4.80",  # JPEG-LS Lossless
    f"{_PREFIX}.4.90",  # JPEG 2000 lossless only
    f"{_PREFIX}.4.201",  # High-Throughput JPEG 2000 lossless only
    f"{_PREFIX}.4.202",
    f"{_PREFIX}.4.110",  # JPEG XL lossless
    f"{_PREFIX}.4.111",  # JPEG XL, recompressed JPEG
)
_NOT_DATA_SETS = frozenset({f"{_PREFIX}.6.1", f"{_PREFIX}.6.2"})
"""RFC 2557 MIME and XML encoding: not for composite objects on an association."""

QUERY_SYNTAXES = _FIRST[:4]
"""For identifiers of C-FIND, C-GET and C-MOVE."""


def _all_transfer_syntaxes() -> tuple[str, ...]:
    registered = [
        uid
        for uid, entry in REGISTERED_UIDS.items()
        if entry[1] == "Transfer Syntax" and uid.startswith(_PREFIX) and uid not in _NOT_DATA_SETS
    ]
    rest = (uid for uid in registered if uid not in _FIRST)
    return (*_FIRST, *sorted(rest, key=lambda uid: [int(part) for part in uid.split(".")]))


STORAGE_SYNTAXES = _all_transfer_syntaxes()
"""Every transfer syntax in the standard: uncompressed, lossless, then the rest, stills before video."""


def is_storage(abstract_syntax: str, accept_private: bool) -> bool:
    """Tell whether an abstract syntax is a storage SOP class.

    With `accept_private` so is every UID that no other service of the standard uses.
    """
    if abstract_syntax == BLOB_STORAGE:
        return False
    try:
        service = uid_to_service_class(abstract_syntax)
    except ValueError:
        return False
    if service is StorageServiceClass:
        return True
    if abstract_syntax.startswith(_COMPOSITE_STORAGE) or abstract_syntax in _RETIRED_ELSEWHERE:
        return True  # retired classes: their images are still sent
    known = service.__name__ != "ServiceClass" or abstract_syntax in REGISTERED_UIDS
    return accept_private and not known


@lru_cache(maxsize=1024)
def supported_context(abstract_syntax: str, accept_private: bool) -> PresentationContext | None:
    """Return what the node supports for an abstract syntax, or None if it does not take part in it."""
    context = PresentationContext()
    context.abstract_syntax = UID(abstract_syntax)
    if abstract_syntax == VERIFICATION or abstract_syntax in FIND_CLASSES | GET_CLASSES | MOVE_CLASSES:
        context.transfer_syntax = list(QUERY_SYNTAXES)
    elif abstract_syntax == STORAGE_COMMITMENT:
        context.transfer_syntax = list(QUERY_SYNTAXES[:2])
    elif abstract_syntax == BLOB_STORAGE:
        context.transfer_syntax = [UID(BLOB_FORMAT_1)]
    elif is_storage(abstract_syntax, accept_private):
        context.transfer_syntax = list(STORAGE_SYNTAXES)
        # C-GET: the requestor asks to be the SCP of storage classes on its own association.
        context.scu_role = True
        context.scp_role = True
    else:
        return None
    return context
