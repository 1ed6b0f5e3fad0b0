"""The first schema: patient, study, series, instance, blob.

Written out, not derived from the models: a revision never changes once it is released.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables and their indexes."""

    op.create_table(
        "blob",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("raw_size", sa.BigInteger(), nullable=False),
        sa.Column("n_instances", sa.BigInteger(), nullable=False),
        sa.Column("codec", TEXT, nullable=False),
        sa.Column("parameters", TEXT, nullable=False),
        sa.Column("format_version", sa.BigInteger(), nullable=False),
        sa.Column("requested", TEXT, nullable=False),
        sa.Column("fallback", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("pk", name="pk_blob"),
        sa.UniqueConstraint("name", name="uq_blob_name"),
        sqlite_autoincrement=True,
    )

    op.create_table(
        "patient",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("identity", TEXT, nullable=False),
        sa.Column("patient_name", TEXT, nullable=True),
        sa.Column("patient_id", TEXT, nullable=True),
        sa.Column("issuer_of_patient_id", TEXT, nullable=True),
        sa.Column("patient_birth_date", TEXT, nullable=True),
        sa.Column("patient_birth_time", TEXT, nullable=True),
        sa.Column("patient_sex", TEXT, nullable=True),
        sa.Column("other_patient_ids", TEXT, nullable=True),
        sa.Column("ethnic_group", TEXT, nullable=True),
        sa.Column("patient_comments", TEXT, nullable=True),
        sa.Column("patient_name_alphabetic", TEXT, nullable=True),
        sa.Column("patient_name_ideographic", TEXT, nullable=True),
        sa.Column("patient_name_phonetic", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("pk", name="pk_patient"),
        sa.UniqueConstraint("identity", name="uq_patient_identity"),
        sqlite_autoincrement=True,
    )

    op.create_table(
        "study",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("patient_pk", KEY, nullable=False),
        sa.Column("study_instance_uid", TEXT, nullable=False),
        sa.Column("study_date", TEXT, nullable=True),
        sa.Column("study_time", TEXT, nullable=True),
        sa.Column("accession_number", TEXT, nullable=True),
        sa.Column("study_id", TEXT, nullable=True),
        sa.Column("study_description", TEXT, nullable=True),
        sa.Column("referring_physician_name", TEXT, nullable=True),
        sa.Column("name_of_physicians_reading_study", TEXT, nullable=True),
        sa.Column("admitting_diagnoses_description", TEXT, nullable=True),
        sa.Column("patient_age", TEXT, nullable=True),
        sa.Column("patient_size", TEXT, nullable=True),
        sa.Column("patient_weight", TEXT, nullable=True),
        sa.Column("occupation", TEXT, nullable=True),
        sa.Column("additional_patient_history", TEXT, nullable=True),
        sa.Column("referring_physician_name_folded", TEXT, nullable=True),
        sa.Column("name_of_physicians_reading_study_folded", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("pk", name="pk_study"),
        sa.ForeignKeyConstraint(["patient_pk"], ["patient.pk"], name="fk_study_patient_pk"),
        sa.UniqueConstraint("study_instance_uid", name="uq_study_study_instance_uid"),
        sqlite_autoincrement=True,
    )

    op.create_table(
        "series",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("study_pk", KEY, nullable=False),
        sa.Column("series_instance_uid", TEXT, nullable=False),
        sa.Column("modality", TEXT, nullable=True),
        sa.Column("series_number", sa.BigInteger(), nullable=True),
        sa.Column("series_description", TEXT, nullable=True),
        sa.Column("series_date", TEXT, nullable=True),
        sa.Column("series_time", TEXT, nullable=True),
        sa.Column("body_part_examined", TEXT, nullable=True),
        sa.Column("laterality", TEXT, nullable=True),
        sa.Column("patient_position", TEXT, nullable=True),
        sa.Column("protocol_name", TEXT, nullable=True),
        sa.Column("operators_name", TEXT, nullable=True),
        sa.Column("performing_physician_name", TEXT, nullable=True),
        sa.Column("manufacturer", TEXT, nullable=True),
        sa.Column("manufacturer_model_name", TEXT, nullable=True),
        sa.Column("station_name", TEXT, nullable=True),
        sa.Column("device_serial_number", TEXT, nullable=True),
        sa.Column("software_versions", TEXT, nullable=True),
        sa.Column("institution_name", TEXT, nullable=True),
        sa.Column("institutional_department_name", TEXT, nullable=True),
        sa.Column("performed_procedure_step_start_date", TEXT, nullable=True),
        sa.Column("performed_procedure_step_start_time", TEXT, nullable=True),
        sa.Column("performed_procedure_step_id", TEXT, nullable=True),
        sa.Column("performed_procedure_step_description", TEXT, nullable=True),
        sa.Column("frame_of_reference_uid", TEXT, nullable=True),
        sa.Column("operators_name_folded", TEXT, nullable=True),
        sa.Column("performing_physician_name_folded", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("pk", name="pk_series"),
        sa.ForeignKeyConstraint(["study_pk"], ["study.pk"], name="fk_series_study_pk"),
        sa.UniqueConstraint("study_pk", "series_instance_uid", name="uq_series_study_pk_series_instance_uid"),
        sqlite_autoincrement=True,
    )

    op.create_table(
        "instance",
        sa.Column("pk", KEY, nullable=False),
        sa.Column("series_pk", KEY, nullable=False),
        sa.Column("sop_instance_uid", TEXT, nullable=False),
        sa.Column("sop_class_uid", TEXT, nullable=False),
        sa.Column("available_transfer_syntax_uid", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("calling_ae", TEXT, nullable=False),
        sa.Column("called_ae", TEXT, nullable=False),
        sa.Column("remote_host", TEXT, nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("replaced", sa.Boolean(), nullable=False),
        sa.Column("spool_name", TEXT, nullable=True),
        sa.Column("blob_pk", KEY, nullable=True),
        sa.Column("blob_index", sa.BigInteger(), nullable=True),
        sa.Column("damaged", sa.Boolean(), nullable=False),
        sa.Column("needs_attention", TEXT, nullable=True),
        sa.Column("specific_character_set", TEXT, nullable=True),
        sa.Column("timezone_offset_from_utc", TEXT, nullable=True),
        sa.Column("instance_number", sa.BigInteger(), nullable=True),
        sa.Column("instance_creation_date", TEXT, nullable=True),
        sa.Column("instance_creation_time", TEXT, nullable=True),
        sa.Column("content_date", TEXT, nullable=True),
        sa.Column("content_time", TEXT, nullable=True),
        sa.Column("acquisition_date", TEXT, nullable=True),
        sa.Column("acquisition_time", TEXT, nullable=True),
        sa.Column("acquisition_date_time", TEXT, nullable=True),
        sa.Column("acquisition_number", sa.BigInteger(), nullable=True),
        sa.Column("image_type", TEXT, nullable=True),
        sa.Column("samples_per_pixel", sa.BigInteger(), nullable=True),
        sa.Column("photometric_interpretation", TEXT, nullable=True),
        sa.Column("number_of_frames", sa.BigInteger(), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=True),
        sa.Column("columns", sa.BigInteger(), nullable=True),
        sa.Column("bits_allocated", sa.BigInteger(), nullable=True),
        sa.Column("bits_stored", sa.BigInteger(), nullable=True),
        sa.Column("pixel_spacing", TEXT, nullable=True),
        sa.Column("slice_thickness", TEXT, nullable=True),
        sa.Column("image_position_patient", TEXT, nullable=True),
        sa.Column("image_orientation_patient", TEXT, nullable=True),
        sa.Column("slice_location", TEXT, nullable=True),
        sa.Column("temporal_position_identifier", sa.BigInteger(), nullable=True),
        sa.Column("content_label", TEXT, nullable=True),
        sa.Column("content_description", TEXT, nullable=True),
        sa.Column("completion_flag", TEXT, nullable=True),
        sa.Column("verification_flag", TEXT, nullable=True),
        sa.Column("document_title", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("pk", name="pk_instance"),
        sa.ForeignKeyConstraint(["series_pk"], ["series.pk"], name="fk_instance_series_pk"),
        sa.ForeignKeyConstraint(["blob_pk"], ["blob.pk"], name="fk_instance_blob_pk"),
        sqlite_autoincrement=True,
    )

    op.create_index("ix_patient_patient_birth_date", "patient", ["patient_birth_date"])
    op.create_index("ix_patient_patient_id", "patient", ["patient_id"])
    op.create_index("ix_patient_patient_name_alphabetic", "patient", ["patient_name_alphabetic"])
    op.create_index("ix_patient_patient_name_ideographic", "patient", ["patient_name_ideographic"])
    op.create_index("ix_patient_patient_name_phonetic", "patient", ["patient_name_phonetic"])
    op.create_index("ix_study_accession_number", "study", ["accession_number"])
    op.create_index("ix_study_patient_pk", "study", ["patient_pk"])
    op.create_index("ix_study_study_date", "study", ["study_date"])
    op.create_index("ix_study_study_id", "study", ["study_id"])
    op.create_index("ix_series_series_instance_uid", "series", ["series_instance_uid"])
    op.create_index("ix_instance_blob_pk", "instance", ["blob_pk"], **_where("blob_pk IS NOT NULL"))
    op.create_index(
        "ix_instance_needs_attention",
        "instance",
        ["needs_attention"],
        **_where("needs_attention IS NOT NULL"),
    )
    op.create_index("ix_instance_older_versions", "instance", ["sop_instance_uid"], **OLDER)
    op.create_index("ix_instance_series_pk_current", "instance", ["series_pk"], **CURRENT)
    op.create_index(
        "ix_instance_spooled",
        "instance",
        ["series_pk", "received_at", "size", "spool_name"],
        **_where("spool_name IS NOT NULL"),
    )
    op.create_index("uq_instance_current", "instance", ["sop_instance_uid"], unique=True, **CURRENT)


def _where(sqlite: str, postgresql: str = "") -> dict[str, Any]:
    """Return the condition of a partial index; SQLite has no boolean type."""
    return {"sqlite_where": sa.text(sqlite), "postgresql_where": sa.text(postgresql or sqlite)}


CURRENT = _where("current = 1", "current")
OLDER = _where("current = 0", "NOT current")
