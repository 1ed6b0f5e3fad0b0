"""Small catalogs for tests: one call enters one instance."""

import hashlib
from datetime import UTC, datetime, timedelta

from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.recording import OnConflict, Recorded
from dcmpress.storage.received import Received

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
EPOCH = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def received(
    uid: str, content: str = "", *, spool_name: str = "", second: int = 0, sop_class: str = CT
) -> Received:
    """Return the receipt of `content` under SOP Instance UID `uid`."""
    content = content or uid
    return Received(
        sop_class_uid=sop_class,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        size=1000 + len(content),
        sha256=hashlib.sha256(content.encode()).digest(),
        spool_name=spool_name or f"{uid}-{content}-{second}",
        received_at=EPOCH + timedelta(seconds=second),
        calling_ae="SCANNER",
        called_ae="DCMPRESS",
        remote_host="127.0.0.1",
    )


def enter(
    catalog: Catalog,
    uid: str,
    content: str = "",
    *,
    second: int = 0,
    spool_name: str = "",
    on_conflict: OnConflict = "keep-both",
    sop_class: str = CT,
    **attributes: str,
) -> Recorded:
    """Record one instance; patient, study and series have defaults."""
    known = {
        "PatientID": "P1",
        "PatientName": "Doe^John",
        "StudyInstanceUID": "1.1",
        "SeriesInstanceUID": "1.1.1",
        "Modality": "CT",
    } | attributes
    receipt = received(uid, content, spool_name=spool_name, second=second, sop_class=sop_class)
    return catalog.record(receipt, {k: v for k, v in known.items() if v}, on_conflict)
