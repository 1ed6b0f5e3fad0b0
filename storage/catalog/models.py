"""The tables: patient, study, series, instance, blob.

A column that holds a DICOM attribute has the name that `attributes` gives it; a test compares the two.
`pk` is the database's own key and never leaves the node. Times are UTC.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

BYTEWISE = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that compares by code point on every database: ranges and prefixes then use the index."""

PRIMARY_KEY = BigInteger().with_variant(Integer, "sqlite")
"""SQLite makes only a column of exactly this type its row number."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite, which has no such type, keeps it without the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The tables of the catalog.

    No key is ever used again (SQLite would): a key held across transactions, by the pipeline or in a
    cache, means the same row or none.
    """

    __table_args__: Any = {"sqlite_autoincrement": True}  # noqa: RUF012  # SQLAlchemy's own form

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: BYTEWISE,
        int: BigInteger(),
        bytes: LargeBinary(),
        datetime: UtcDateTime(),
    }


class Patient(Base):
    """A patient, as the senders identify one."""

    __tablename__ = "patient"

    pk: Mapped[int] = mapped_column(PRIMARY_KEY, primary_key=True)
    identity: Mapped[str] = mapped_column(unique=True)
    """Patient ID and its issuer; where the id is empty also name and birth date (`entering.identity_of`)."""
    patient_name: Mapped[str | None]
    patient_id: Mapped[str | None] = mapped_column(index=True)
    issuer_of_patient_id: Mapped[str | None]
    patient_birth_date: Mapped[str | None] = mapped_column(index=True)
    patient_birth_time: Mapped[str | None]
    patient_sex: Mapped[str | None]
    other_patient_ids: Mapped[str | None]
    ethnic_group: Mapped[str | None]
    patient_comments: Mapped[str | None]
    patient_name_alphabetic: Mapped[str | None] = mapped_column(index=True)
    patient_name_ideographic: Mapped[str | None] = mapped_column(index=True)
    patient_name_phonetic: Mapped[str | None] = mapped_column(index=True)
    """The three component groups, folded (`person_name`), for matching."""


class Study(Base):
    """A study; it belongs to the patient that its first instance named."""

    __tablename__ = "study"

    pk: Mapped[int] = mapped_column(PRIMARY_KEY, primary_key=True)
    patient_pk: Mapped[int] = mapped_column(ForeignKey("patient.pk"), index=True)
    study_instance_uid: Mapped[str] = mapped_column(unique=True)
    study_date: Mapped[str | None] = mapped_column(index=True)
    study_time: Mapped[str | None]
    accession_number: Mapped[str | None] = mapped_column(index=True)
    study_id: Mapped[str | None] = mapped_column(index=True)
    study_description: Mapped[str | None]
    referring_physician_name: Mapped[str | None]
    name_of_physicians_reading_study: Mapped[str | None]
    admitting_diagnoses_description: Mapped[str | None]
    patient_age: Mapped[str | None]
    patient_size: Mapped[str | None]
    patient_weight: Mapped[str | None]
    occupation: Mapped[str | None]
    additional_patient_history: Mapped[str | None]
    referring_physician_name_folded: Mapped[str | None]
    name_of_physicians_reading_study_folded: Mapped[str | None]


class Series(Base):
    """A series."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("study_pk", "series_instance_uid"),
        {"sqlite_autoincrement": True},
    )

    pk: Mapped[int] = mapped_column(PRIMARY_KEY, primary_key=True)
    study_pk: Mapped[int] = mapped_column(ForeignKey("study.pk"))
    series_instance_uid: Mapped[str] = mapped_column(index=True)
    modality: Mapped[str | None]
    series_number: Mapped[int | None]
    series_description: Mapped[str | None]
    series_date: Mapped[str | None]
    series_time: Mapped[str | None]
    body_part_examined: Mapped[str | None]
    laterality: Mapped[str | None]
    patient_position: Mapped[str | None]
    protocol_name: Mapped[str | None]
    operators_name: Mapped[str | None]
    performing_physician_name: Mapped[str | None]
    manufacturer: Mapped[str | None]
    manufacturer_model_name: Mapped[str | None]
    station_name: Mapped[str | None]
    device_serial_number: Mapped[str | None]
    software_versions: Mapped[str | None]
    institution_name: Mapped[str | None]
    institutional_department_name: Mapped[str | None]
    performed_procedure_step_start_date: Mapped[str | None]
    performed_procedure_step_start_time: Mapped[str | None]
    performed_procedure_step_id: Mapped[str | None]
    performed_procedure_step_description: Mapped[str | None]
    frame_of_reference_uid: Mapped[str | None]
    operators_name_folded: Mapped[str | None]
    performing_physician_name_folded: Mapped[str | None]


class Blob(Base):
    """A file of compressed instances; immutable once it is stored."""

    __tablename__ = "blob"

    pk: Mapped[int] = mapped_column(PRIMARY_KEY, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    """"writing" from before the file exists until it is settled, then "stored"."""
    created_at: Mapped[datetime]
    size: Mapped[int]
    """Bytes of the file."""
    raw_size: Mapped[int]
    """Bytes of the data sets in it."""
    n_instances: Mapped[int]
    codec: Mapped[str]
    parameters: Mapped[str]
    """Effort and whatever else the codec was given, as JSON."""
    format_version: Mapped[int]
    requested: Mapped[str]
    """The codec that the rule wanted, with its parameters, as JSON; not always the one that was kept."""
    fallback: Mapped[str | None]
    """Why some of the frames were not kept as that codec made them."""
    recompression_tries: Mapped[int] = mapped_column(server_default=text("0"))
    """Re-compressions that were begun and have not come to an end."""
    left_alone: Mapped[str | None]
    """Why re-compression by the codec in `requested` is not tried any more, if it is not."""


class Instance(Base):
    """One version of a SOP instance: one sequence of bytes that was received under its UID."""

    __tablename__ = "instance"

    pk: Mapped[int] = mapped_column(PRIMARY_KEY, primary_key=True)
    series_pk: Mapped[int] = mapped_column(ForeignKey("series.pk"))
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    available_transfer_syntax_uid: Mapped[str]
    """The transfer syntax of the data set that is kept: as received, unless the next but two say otherwise."""
    size: Mapped[int]
    """Bytes of the data set that is kept."""
    sha256: Mapped[bytes]
    received_transfer_syntax_uid: Mapped[str | None]
    received_size: Mapped[int | None]
    received_sha256: Mapped[bytes | None]
    """What was received, where another encoding of it is kept in its place (`pixel_exact`)."""
    received_at: Mapped[datetime]
    calling_ae: Mapped[str]
    called_ae: Mapped[str]
    remote_host: Mapped[str]
    current: Mapped[bool]
    """Whether this is the version that is found and served."""
    replaced: Mapped[bool]
    """Whether a later version took its place under the policy "replace"; its bytes are still in the blob."""
    spool_name: Mapped[str | None]
    """File in the spool until the instance is settled in a blob."""
    blob_pk: Mapped[int | None] = mapped_column(ForeignKey("blob.pk"))
    blob_index: Mapped[int | None]
    """Position inside the blob."""
    damaged: Mapped[bool]
    """Whether the stored bytes failed their checksum: not served, and healed by an equal data set."""
    needs_attention: Mapped[str | None]
    """Why a person should look at it, if one should."""
    specific_character_set: Mapped[str | None]
    timezone_offset_from_utc: Mapped[str | None]
    instance_number: Mapped[int | None]
    instance_creation_date: Mapped[str | None]
    instance_creation_time: Mapped[str | None]
    content_date: Mapped[str | None]
    content_time: Mapped[str | None]
    acquisition_date: Mapped[str | None]
    acquisition_time: Mapped[str | None]
    acquisition_date_time: Mapped[str | None]
    acquisition_number: Mapped[int | None]
    image_type: Mapped[str | None]
    samples_per_pixel: Mapped[int | None]
    photometric_interpretation: Mapped[str | None]
    number_of_frames: Mapped[int | None]
    rows: Mapped[int | None]
    columns: Mapped[int | None]
    bits_allocated: Mapped[int | None]
    bits_stored: Mapped[int | None]
    pixel_spacing: Mapped[str | None]
    slice_thickness: Mapped[str | None]
    image_position_patient: Mapped[str | None]
    image_orientation_patient: Mapped[str | None]
    slice_location: Mapped[str | None]
    temporal_position_identifier: Mapped[int | None]
    content_label: Mapped[str | None]
    content_description: Mapped[str | None]
    completion_flag: Mapped[str | None]
    verification_flag: Mapped[str | None]
    document_title: Mapped[str | None]


CURRENT: dict[str, Any] = {"sqlite_where": text("current = 1"), "postgresql_where": text("current")}
"""Condition of the partial indexes on the versions that are found and served."""

_OLDER: dict[str, Any] = {"sqlite_where": text("current = 0"), "postgresql_where": text("NOT current")}


def _present(column: str) -> dict[str, Any]:
    condition = text(f"{column} IS NOT NULL")
    return {"sqlite_where": condition, "postgresql_where": condition}


Index("uq_instance_current", Instance.sop_instance_uid, unique=True, **CURRENT)
Index("ix_instance_older_versions", Instance.sop_instance_uid, **_OLDER)
Index("ix_instance_series_pk_current", Instance.series_pk, **CURRENT)
Index(
    "ix_instance_spooled",
    Instance.series_pk,
    Instance.received_at,
    Instance.size,
    Instance.spool_name,
    **_present("spool_name"),
)
Index("ix_instance_blob_pk", Instance.blob_pk, **_present("blob_pk"))
Index("ix_instance_needs_attention", Instance.needs_attention, **_present("needs_attention"))


class CommitmentRequest(Base):
    """A request for storage commitment (PS3.4 Annex J) that has not been answered for good."""

    __tablename__ = "commitment_request"

    pk: Mapped[int] = mapped_column(PRIMARY_KEY, primary_key=True)
    transaction_uid: Mapped[str]
    requestor_ae: Mapped[str]
    references: Mapped[str]
    """The instances in question: JSON list of [SOP class UID, SOP instance UID]."""
    received_at: Mapped[datetime]
    attempts: Mapped[int]
    """Reports that did not get through."""
    next_attempt_at: Mapped[datetime] = mapped_column(index=True)
