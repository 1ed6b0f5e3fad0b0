"""A data set on its way into the catalog: the rows that its attributes make."""

import hashlib
from collections.abc import Mapping
from typing import Any

from dcmpress.storage.catalog.attributes import ATTRIBUTES, Level
from dcmpress.storage.catalog.person_name import folded_groups, folded_values
from dcmpress.storage.catalog.values import (
    LONGEST_TEXT,
    clean,
    placeholder_uid,
    stored_uid,
    stored_value,
)
from dcmpress.storage.received import Received

COLUMNS: dict[Level, dict[str, tuple[str, str]]] = {
    level: {a.keyword: (a.column, a.vr) for a in ATTRIBUTES if a.level == level and a.origin == "data set"}
    for level in Level
}
_LEVEL_OF = {
    keyword: level for level in (Level.PATIENT, Level.STUDY, Level.SERIES) for keyword in COLUMNS[level]
}
_NO_INSTANCE_VALUES: dict[str, Any] = dict.fromkeys(column for column, _ in COLUMNS[Level.IMAGE].values())


class Entering:
    """A data set on its way in: its attributes, and the keys that follow from them."""

    def __init__(
        self, received: Received, attributes: Mapping[str, str], needs_attention: str | None
    ) -> None:
        self.received = received
        self.attributes = attributes
        reasons = [needs_attention] if needs_attention else []
        sop_uid = received.sop_instance_uid
        series_uid = stored_uid(attributes.get("SeriesInstanceUID"))
        study_uid = stored_uid(attributes.get("StudyInstanceUID"))
        if study_uid is None:
            # From the series where there is one, so that its instances stay together.
            study_uid = placeholder_uid("study", series_uid or sop_uid)
            reasons.append("no Study Instance UID")
        if series_uid is None:
            series_uid = placeholder_uid("series", sop_uid)
            reasons.append("no Series Instance UID")
        self.series_key = (study_uid, series_uid)
        self.identity = identity_of(attributes, study_uid)
        self._reasons = reasons

    def values(self, level: Level) -> dict[str, Any]:
        """Return the columns of a new row at `level`."""
        values: dict[str, Any] = {"identity": self.identity} if level == Level.PATIENT else {}
        for keyword in COLUMNS[level]:
            values |= columns_for(keyword, self.attributes.get(keyword, ""))[1]
        return values

    def row(self, series_pk: int, identity: str) -> dict[str, Any]:
        """Return the columns of the instance's row in a series whose patient has `identity`."""
        reasons = self._reasons
        if identity != self.identity:
            reasons = [*reasons, "the patient differs from that of the study's first instance"]
        received = self.received
        came_as = received.came_as
        row = _NO_INSTANCE_VALUES | {
            "series_pk": series_pk,
            "sop_instance_uid": clean(received.sop_instance_uid)[:LONGEST_TEXT],
            "sop_class_uid": clean(received.sop_class_uid)[:LONGEST_TEXT],
            "available_transfer_syntax_uid": received.transfer_syntax_uid,
            "size": received.size,
            "sha256": received.sha256,
            "received_transfer_syntax_uid": came_as and came_as.transfer_syntax_uid,
            "received_size": came_as and came_as.size,
            "received_sha256": came_as and came_as.sha256,
            "received_at": received.received_at,
            "calling_ae": received.calling_ae,
            "called_ae": received.called_ae,
            "remote_host": received.remote_host,
            "current": True,
            "replaced": False,
            "spool_name": received.spool_name,
            "blob_pk": None,
            "blob_index": None,
            "damaged": False,
            "needs_attention": "; ".join(reasons)[:LONGEST_TEXT] or None,
        }
        columns = COLUMNS[Level.IMAGE]
        for keyword, text in self.attributes.items():
            if keyword in columns:
                column, vr = columns[keyword]
                row[column] = stored_value(vr, text)
        return row


def identity_of(attributes: Mapping[str, str], study_uid: str) -> str:
    """Return what makes a patient the same patient: the id and its issuer.

    Without an id, name and birth date count too; without any of them, each study has its own patient:
    two unknown patients are not one.
    """
    patient_id, issuer, name, born = (
        str(stored_value(COLUMNS[Level.PATIENT][keyword][1], attributes.get(keyword, "")) or "")
        for keyword in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
    )
    parts = [patient_id, issuer]
    if not patient_id:
        parts += [*folded_groups(name), born] if name or born else [study_uid]
    identity = "\x1f".join(parts)
    if len(identity) <= LONGEST_TEXT:
        return identity
    return "sha256:" + hashlib.sha256(identity.encode()).hexdigest()


def columns_for(keyword: str, text: str) -> tuple[str, dict[str, Any]]:
    """Return the column of a patient, study or series attribute, and all columns that follow from it."""
    column, vr = COLUMNS[_LEVEL_OF[keyword]][keyword]
    value = stored_value(vr, text)
    values: dict[str, Any] = {column: value}
    if keyword == "PatientName":
        groups = folded_groups(str(value or ""))
        for suffix, group in zip(("alphabetic", "ideographic", "phonetic"), groups, strict=True):
            values[f"patient_name_{suffix}"] = group[:LONGEST_TEXT] or None
    elif vr == "PN":
        values[f"{column}_folded"] = folded_values(str(value or ""))[:LONGEST_TEXT] or None
    return column, values
