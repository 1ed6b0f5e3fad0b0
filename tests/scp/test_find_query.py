"""What C-FIND, C-GET and C-MOVE identifiers ask for, and what they are refused for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dcmpress.scp.find import (
    COMPOSITE_INSTANCE_ROOT_GET,
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    FindRequest,
    find_responses,
    ignores_keys,
    retrieve_query,
)
from dcmpress.scp.identifier import (
    IdentifierMismatchError,
    UnreadableIdentifierError,
    decode_identifier,
)
from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.catalog import Catalog
from tests.postgresql import NewCatalogUrl
from tests.scp.test_find_identifier import EXPLICIT, IMPLICIT, decode, encode
from tests.storage.catalog_entries import enter


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, new_catalog_url: NewCatalogUrl) -> Iterator[Catalog]:
    folder: Path = tmp_path_factory.mktemp("catalog")
    catalog = Catalog.open(new_catalog_url(folder))
    for number, name in enumerate(("Müller^Jörg", "Doe^John"), 1):
        for series in (1, 2):
            enter(
                catalog,
                f"1.{number}.{series}.1",
                PatientName=name,
                PatientID=f"P{number}",
                StudyInstanceUID=f"1.{number}",
                SeriesInstanceUID=f"1.{number}.{series}",
                Modality=("CT", "MR")[series - 1],
                StudyDate="20240101",
                Rows="512",
            )
    yield catalog
    catalog.close()


def identifier(level: str, **keys: Any) -> bytes:
    data_set = Dataset()
    if level:
        data_set.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(data_set, keyword, value)
    return encode(data_set, IMPLICIT)


def find(
    catalog: Catalog, sop_class: str, level: str, *, relational: bool = False, **keys: Any
) -> list[Dataset]:
    request = FindRequest(sop_class, identifier(level, **keys), IMPLICIT, "DCMPRESS", relational=relational)
    return [decode(data, IMPLICIT) for data in find_responses(catalog, request).identifiers]


def test_each_level_is_searched(catalog: Catalog) -> None:
    (patient,) = find(catalog, PATIENT_ROOT_FIND, "PATIENT", PatientName="MULLER*", PatientID="")
    assert patient.PatientID == "P1"
    (study,) = find(
        catalog, PATIENT_ROOT_FIND, "STUDY", PatientID="P1", StudyInstanceUID="", ModalitiesInStudy=""
    )
    assert (study.StudyInstanceUID, study.ModalitiesInStudy) == ("1.1", ["CT", "MR"])
    (series,) = find(
        catalog, STUDY_ROOT_FIND, "SERIES", StudyInstanceUID="1.2", Modality="MR", SeriesInstanceUID=""
    )
    assert series.SeriesInstanceUID == "1.2.2"
    (image,) = find(
        catalog,
        STUDY_ROOT_FIND,
        "IMAGE",
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.2.2",
        SOPInstanceUID="",
        Rows=None,
    )
    assert (image.SOPInstanceUID, image.Rows) == ("1.2.2.1", 512)


def test_the_study_root_holds_patients_in_its_studies(catalog: Catalog) -> None:
    found = find(catalog, STUDY_ROOT_FIND, "STUDY", PatientName="muller^jorg", StudyInstanceUID="")
    assert [(str(study.PatientName), study.SpecificCharacterSet) for study in found] == [
        ("Müller^Jörg", "ISO_IR 192")
    ]


@pytest.mark.parametrize(
    ("sop_class", "level", "keys"),
    [
        (STUDY_ROOT_FIND, "PATIENT", {"PatientID": ""}),
        (STUDY_ROOT_FIND, "", {"StudyInstanceUID": ""}),
        (STUDY_ROOT_FIND, "EVERYTHING", {"StudyInstanceUID": ""}),
        (PATIENT_ROOT_MOVE, "STUDY", {"StudyInstanceUID": ""}),
        (PATIENT_ROOT_FIND, "STUDY", {"StudyInstanceUID": "1.1"}),
        (PATIENT_ROOT_FIND, "STUDY", {"PatientID": "", "StudyInstanceUID": "1.1"}),
        (PATIENT_ROOT_FIND, "STUDY", {"PatientID": "*", "StudyInstanceUID": "1.1"}),
        (STUDY_ROOT_FIND, "SERIES", {"SeriesInstanceUID": "1.1.1"}),
        (STUDY_ROOT_FIND, "IMAGE", {"StudyInstanceUID": "1.1", "SOPInstanceUID": ""}),
    ],
)
def test_an_identifier_that_does_not_fit_its_service(
    catalog: Catalog, sop_class: str, level: str, keys: dict[str, Any]
) -> None:
    with pytest.raises(IdentifierMismatchError) as raised:
        find(catalog, sop_class, level, **keys)
    assert raised.value.status == 0xA900


def test_a_missing_unique_key_is_named(catalog: Catalog) -> None:
    with pytest.raises(IdentifierMismatchError, match="StudyInstanceUID") as raised:
        find(catalog, STUDY_ROOT_FIND, "SERIES", SeriesInstanceUID="1.1.1")
    assert raised.value.offending == (0x0020000D,)


def test_relational_queries_need_no_keys_of_upper_levels(catalog: Catalog) -> None:
    found = find(
        catalog,
        PATIENT_ROOT_FIND,
        "SERIES",
        relational=True,
        PatientName="Doe*",
        Modality="CT",
        SeriesInstanceUID="",
    )
    assert [series.SeriesInstanceUID for series in found] == ["1.2.1"]


def test_a_value_that_makes_no_sense(catalog: Catalog) -> None:
    sent = identifier("STUDY", StudyTime="0900").replace(b"0900", b"noon")
    with pytest.raises(UnreadableIdentifierError) as raised:
        find_responses(catalog, FindRequest(STUDY_ROOT_FIND, sent, IMPLICIT, "DCMPRESS"))
    assert (raised.value.status, raised.value.offending) == (0xC000, (0x00080030,))
    assert "noon" in str(raised.value)
    assert raised.value.loggable == "StudyTime has a value that makes no sense"


def test_keys_that_are_not_supported_do_not_match_and_come_back_empty(catalog: Catalog) -> None:
    found = find(catalog, STUDY_ROOT_FIND, "STUDY", PregnancyStatus=4, Modality="XA", StudyInstanceUID="")
    assert len(found) == 2
    assert all(study["PregnancyStatus"].is_empty and study["Modality"].is_empty for study in found)


@pytest.mark.parametrize(
    ("keys", "ignores"),
    [
        ({"PregnancyStatus": 4}, True),
        ({"Modality": "CT"}, True),
        ({"Modality": "*"}, False),
        ({"ModalitiesInStudy": "CT"}, False),
        ({"PatientID": "4", "RetrieveAETitle": "X"}, False),
    ],
)
def test_the_status_says_whether_a_key_is_ignored(keys: dict[str, Any], ignores: bool) -> None:
    assert ignores_keys(decode_identifier(identifier("STUDY", **keys), IMPLICIT), Level.STUDY) == ignores


def test_a_peer_may_be_known_to_write_an_unnamed_character_set(catalog: Catalog) -> None:
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 101"
    data_set.PatientName = "Wałęsa"
    sent = encode(data_set, IMPLICIT)[18:]  # without its (0008,0005)
    assert decode_identifier(sent, IMPLICIT, "ISO_IR 101").texts()["PatientName"] == "Wałęsa"


@pytest.mark.parametrize(
    ("sop_class", "level", "keys", "found"),
    [
        (PATIENT_ROOT_MOVE, "PATIENT", {"PatientID": "P1"}, ["1.1.1.1", "1.1.2.1"]),
        (PATIENT_ROOT_MOVE, "STUDY", {"PatientID": "P1", "StudyInstanceUID": "1.1"}, ["1.1.1.1", "1.1.2.1"]),
        (PATIENT_ROOT_MOVE, "STUDY", {"PatientID": "P2", "StudyInstanceUID": "1.1"}, []),
        (PATIENT_ROOT_MOVE, "PATIENT", {"PatientID": "P*"}, []),
        (STUDY_ROOT_GET, "STUDY", {"StudyInstanceUID": ["1.1", "1.2"], "Modality": "CT"}, 4),
        (STUDY_ROOT_GET, "SERIES", {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.2"}, ["1.1.2.1"]),
        (STUDY_ROOT_GET, "SERIES", {"SeriesInstanceUID": "1.1.2\\1.2.2"}, ["1.1.2.1", "1.2.2.1"]),
        (STUDY_ROOT_GET, "IMAGE", {"SOPInstanceUID": "1.1.2.1"}, ["1.1.2.1"]),
        (COMPOSITE_INSTANCE_ROOT_GET, "IMAGE", {"SOPInstanceUID": ["1.1.2.1", "9"]}, ["1.1.2.1"]),
    ],
)
def test_a_retrieve_names_instances(
    catalog: Catalog, sop_class: str, level: str, keys: dict[str, Any], found: list[str] | int
) -> None:
    query = retrieve_query(sop_class, identifier(level, **keys), IMPLICIT)
    assert query.level == Level[level]
    located = [item.sop_instance_uid for item in catalog.locate(query)]
    assert (len(located) if isinstance(found, int) else located) == found


@pytest.mark.parametrize(
    ("sop_class", "level", "keys"),
    [
        (STUDY_ROOT_GET, "PATIENT", {"PatientID": "P1"}),
        (STUDY_ROOT_GET, "STUDY", {}),
        (STUDY_ROOT_GET, "STUDY", {"StudyInstanceUID": ""}),
        (PATIENT_ROOT_MOVE, "PATIENT", {"PatientID": "*"}),
        (STUDY_ROOT_GET, "IMAGE", {"StudyInstanceUID": "1.1"}),
        (STUDY_ROOT_FIND, "STUDY", {"StudyInstanceUID": "1.1"}),
    ],
)
def test_a_retrieve_of_everything_is_refused(sop_class: str, level: str, keys: dict[str, str]) -> None:
    with pytest.raises(IdentifierMismatchError):
        retrieve_query(sop_class, identifier(level, **keys), IMPLICIT)


def test_explicit_requests_are_answered_alike(catalog: Catalog) -> None:
    data_set = Dataset()
    data_set.QueryRetrieveLevel = "STUDY"
    data_set.StudyInstanceUID = ""
    data_set.add_new(0x00091001, "LO", "")
    request = FindRequest(STUDY_ROOT_FIND, encode(data_set, EXPLICIT), EXPLICIT, "DCMPRESS")
    answers = [decode(data, EXPLICIT) for data in find_responses(catalog, request).identifiers]
    assert [answer.StudyInstanceUID for answer in answers] == ["1.2", "1.1"]
    assert answers[0][0x00091001].VR == "LO"
