"""The attributes that the catalog keeps: one table from which everything else follows.

The columns of the models, the tags that a scan of a received data set looks for, and what C-FIND and
QIDO-RS may match and return are derived from `ATTRIBUTES` or checked against it by a test. It holds the
required, unique and common optional keys of PS3.4 tables C.6-1 to C.6-5, and those of PS3.18 section
10.6 that viewers ask for.
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum


class Level(IntEnum):
    """A level of the Query/Retrieve information models (PS3.4 C.6), from the top downwards."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of the catalog.

    Attributes
    ----------
    keyword : the DICOM keyword
    tag : group * 0x10000 + element
    vr : the value representation in the DICOM dictionary
    level : the entity that owns it in the query model (PS3.4 C.6)
    origin : "data set", "receipt" (known without reading the data set) or "computed" (from other rows)
    column : the column in the table of `level`; a computed attribute has none (empty)
    """

    keyword: str
    tag: int
    vr: str
    level: Level
    origin: str = "data set"
    column: str = field(init=False)

    def __post_init__(self) -> None:
        column = "" if self.origin == "computed" else _snake_case(self.keyword)
        object.__setattr__(self, "column", column)


def _snake_case(keyword: str) -> str:
    """Return `keyword` as a column name: SOPInstanceUID becomes sop_instance_uid."""
    keyword = keyword.replace("IDs", "Ids")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", keyword).lower()


_P, _S, _E, _I = Level.PATIENT, Level.STUDY, Level.SERIES, Level.IMAGE

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute("PatientName", 0x00100010, "PN", _P),
    Attribute("PatientID", 0x00100020, "LO", _P),
    Attribute("IssuerOfPatientID", 0x00100021, "LO", _P),
    Attribute("PatientBirthDate", 0x00100030, "DA", _P),
    Attribute("PatientBirthTime", 0x00100032, "TM", _P),
    Attribute("PatientSex", 0x00100040, "CS", _P),
    Attribute("OtherPatientIDs", 0x00101000, "LO", _P),
    Attribute("EthnicGroup", 0x00102160, "SH", _P),
    Attribute("PatientComments", 0x00104000, "LT", _P),
    Attribute("NumberOfPatientRelatedStudies", 0x00201200, "IS", _P, "computed"),
    Attribute("NumberOfPatientRelatedSeries", 0x00201202, "IS", _P, "computed"),
    Attribute("NumberOfPatientRelatedInstances", 0x00201204, "IS", _P, "computed"),
    Attribute("StudyInstanceUID", 0x0020000D, "UI", _S),
    Attribute("StudyDate", 0x00080020, "DA", _S),
    Attribute("StudyTime", 0x00080030, "TM", _S),
    Attribute("AccessionNumber", 0x00080050, "SH", _S),
    Attribute("StudyID", 0x00200010, "SH", _S),
    Attribute("StudyDescription", 0x00081030, "LO", _S),
    Attribute("ReferringPhysicianName", 0x00080090, "PN", _S),
    Attribute("NameOfPhysiciansReadingStudy", 0x00081060, "PN", _S),
    Attribute("AdmittingDiagnosesDescription", 0x00081080, "LO", _S),
    Attribute("PatientAge", 0x00101010, "AS", _S),
    Attribute("PatientSize", 0x00101020, "DS", _S),
    Attribute("PatientWeight", 0x00101030, "DS", _S),
    Attribute("Occupation", 0x00102180, "SH", _S),
    Attribute("AdditionalPatientHistory", 0x001021B0, "LT", _S),
    Attribute("ModalitiesInStudy", 0x00080061, "CS", _S, "computed"),
    Attribute("SOPClassesInStudy", 0x00080062, "UI", _S, "computed"),
    Attribute("NumberOfStudyRelatedSeries", 0x00201206, "IS", _S, "computed"),
    Attribute("NumberOfStudyRelatedInstances", 0x00201208, "IS", _S, "computed"),
    Attribute("SeriesInstanceUID", 0x0020000E, "UI", _E),
    Attribute("Modality", 0x00080060, "CS", _E),
    Attribute("SeriesNumber", 0x00200011, "IS", _E),
    Attribute("SeriesDescription", 0x0008103E, "LO", _E),
    Attribute("SeriesDate", 0x00080021, "DA", _E),
    Attribute("SeriesTime", 0x00080031, "TM", _E),
    Attribute("BodyPartExamined", 0x00180015, "CS", _E),
    Attribute("Laterality", 0x00200060, "CS", _E),
    Attribute("PatientPosition", 0x00185100, "CS", _E),
    Attribute("ProtocolName", 0x00181030, "LO", _E),
    Attribute("OperatorsName", 0x00081070, "PN", _E),
    Attribute("PerformingPhysicianName", 0x00081050, "PN", _E),
    Attribute("Manufacturer", 0x00080070, "LO", _E),
    Attribute("ManufacturerModelName", 0x00081090, "LO", _E),
    Attribute("StationName", 0x00081010, "SH", _E),
    Attribute("DeviceSerialNumber", 0x00181000, "LO", _E),
    Attribute("SoftwareVersions", 0x00181020, "LO", _E),
    Attribute("InstitutionName", 0x00080080, "LO", _E),
    Attribute("InstitutionalDepartmentName", 0x00081040, "LO", _E),
    Attribute("PerformedProcedureStepStartDate", 0x00400244, "DA", _E),
    Attribute("PerformedProcedureStepStartTime", 0x00400245, "TM", _E),
    Attribute("PerformedProcedureStepID", 0x00400253, "SH", _E),
    Attribute("PerformedProcedureStepDescription", 0x00400254, "LO", _E),
    Attribute("FrameOfReferenceUID", 0x00200052, "UI", _E),
    Attribute("NumberOfSeriesRelatedInstances", 0x00201209, "IS", _E, "computed"),
    Attribute("SOPInstanceUID", 0x00080018, "UI", _I, "receipt"),
    Attribute("SOPClassUID", 0x00080016, "UI", _I, "receipt"),
    Attribute("AvailableTransferSyntaxUID", 0x00083002, "UI", _I, "receipt"),
    Attribute("SpecificCharacterSet", 0x00080005, "CS", _I),
    Attribute("TimezoneOffsetFromUTC", 0x00080201, "SH", _I),
    Attribute("InstanceNumber", 0x00200013, "IS", _I),
    Attribute("InstanceCreationDate", 0x00080012, "DA", _I),
    Attribute("InstanceCreationTime", 0x00080013, "TM", _I),
    Attribute("ContentDate", 0x00080023, "DA", _I),
    Attribute("ContentTime", 0x00080033, "TM", _I),
    Attribute("AcquisitionDate", 0x00080022, "DA", _I),
    Attribute("AcquisitionTime", 0x00080032, "TM", _I),
    Attribute("AcquisitionDateTime", 0x0008002A, "DT", _I),
    Attribute("AcquisitionNumber", 0x00200012, "IS", _I),
    Attribute("ImageType", 0x00080008, "CS", _I),
    Attribute("SamplesPerPixel", 0x00280002, "US", _I),
    Attribute("PhotometricInterpretation", 0x00280004, "CS", _I),
    Attribute("NumberOfFrames", 0x00280008, "IS", _I),
    Attribute("Rows", 0x00280010, "US", _I),
    Attribute("Columns", 0x00280011, "US", _I),
    Attribute("BitsAllocated", 0x00280100, "US", _I),
    Attribute("BitsStored", 0x00280101, "US", _I),
    Attribute("PixelSpacing", 0x00280030, "DS", _I),
    Attribute("SliceThickness", 0x00180050, "DS", _I),
    Attribute("ImagePositionPatient", 0x00200032, "DS", _I),
    Attribute("ImageOrientationPatient", 0x00200037, "DS", _I),
    Attribute("SliceLocation", 0x00201041, "DS", _I),
    Attribute("TemporalPositionIdentifier", 0x00200100, "IS", _I),
    Attribute("ContentLabel", 0x00700080, "CS", _I),
    Attribute("ContentDescription", 0x00700081, "LO", _I),
    Attribute("CompletionFlag", 0x0040A491, "CS", _I),
    Attribute("VerificationFlag", 0x0040A493, "CS", _I),
    Attribute("DocumentTitle", 0x00420010, "ST", _I),
)

BY_KEYWORD: dict[str, Attribute] = {attribute.keyword: attribute for attribute in ATTRIBUTES}
BY_TAG: dict[int, Attribute] = {attribute.tag: attribute for attribute in ATTRIBUTES}

UNIQUE_KEYS: dict[Level, str] = {
    Level.PATIENT: "PatientID",
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}
"""The unique key of each level (PS3.4 C.2.2.1.1)."""

INTEGER_VRS = frozenset({"IS", "US"})
"""Value representations kept in integer columns; all others are text."""

MULTI_VALUED = frozenset(
    {
        "OtherPatientIDs",
        "NameOfPhysiciansReadingStudy",
        "AdmittingDiagnosesDescription",
        "OperatorsName",
        "PerformingPhysicianName",
        "SoftwareVersions",
        "SpecificCharacterSet",
        "ImageType",
        "PixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
    }
)
"""Attributes with a column that may have several values; each is matched by itself (PS3.4 C.2.2.2.1)."""


def wanted_tags() -> frozenset[int]:
    """Return the tags that a scan of a received data set shall look for."""
    return frozenset(
        attribute.tag
        for attribute in ATTRIBUTES
        if attribute.origin == "data set" or attribute.keyword in ("SOPInstanceUID", "SOPClassUID")
    )
