"""What a query finds: PS3.4 C.2.2.2, key by key."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench.catalog_growth import fill

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.errors import QueryError
from dcmpress.storage.catalog.query import Key, Matching, Query
from tests.postgresql import NewCatalogUrl
from tests.storage.catalog_entries import CT, enter

SR = "1.2.840.10008.5.1.4.1.1.88.22"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, new_catalog_url: NewCatalogUrl) -> Iterator[Catalog]:
    """Studies 1 to 8, each of another patient, study 1 with three series."""
    folder: Path = tmp_path_factory.mktemp("catalog")
    catalog = Catalog.open(new_catalog_url(folder))
    people = {
        "1": ("Müller^Jörg^^Dr.", "ABC-1", "20240101", "101500"),
        "2": ("MULLER^ANNA", "abc-1", "20240102", "1015"),
        "3": ("Yamada^Tarou=山田^太郎=やまだ^たろう", "J_3", "20240131", "10"),
        "4": ("Muller-Lüdenscheidt^Otto", "J%3", "20240201", "235959.999"),
        "5": ("O'Hara^Maureen", "~*", "", ""),
        "6": ("", "6", "20231231", "000000"),
        "7": ("Διονυσίου^Γιώργος", "7", "1999.12.31", "23:59:59"),
        "8": ("Abel^Muller", "8", "20240101", "101530.5"),
    }
    for number, (name, patient_id, date, time) in people.items():
        enter(
            catalog,
            f"1.{number}.1.1",
            PatientName=name,
            PatientID=patient_id,
            StudyDate=date,
            StudyTime=time,
            StudyInstanceUID=f"1.{number}",
            SeriesInstanceUID=f"1.{number}.1",
            AccessionNumber=f"A{number}",
            ReferringPhysicianName="House^Gregory=ハウス" if number in "12" else "",
            OtherPatientIDs="X1\\X2" if number == "1" else "X12" if number == "2" else "",
            InstanceNumber=number,
            ImageType="ORIGINAL\\PRIMARY\\AXIAL",
            AcquisitionDateTime="20240101101500.25+0100" if number == "1" else "",
            StudyDescription="CT Thorax" if number == "1" else "",
        )
    for uid, series, modality, sop_class in (
        ("1.1.1.2", "1.1.1", "CT", CT),
        ("1.1.2.1", "1.1.2", "MR", CT),
        ("1.1.3.1", "1.1.3", "SR", SR),
    ):
        enter(
            catalog,
            uid,
            PatientName=people["1"][0],
            PatientID="ABC-1",
            StudyInstanceUID="1.1",
            SeriesInstanceUID=series,
            Modality=modality,
            sop_class=sop_class,
        )
    yield catalog
    catalog.close()


def studies(catalog: Catalog, query: Query) -> str:
    """Return the numbers of the studies that `query` finds, in order."""
    return "".join(sorted(match["StudyInstanceUID"][2:] for match in catalog.find(query)))


@pytest.mark.parametrize(
    ("keyword", "text", "found"),
    [
        # universal
        ("PatientName", "", "12345678"),
        ("PatientName", "*", "12345678"),
        ("PatientName", "**", "12345678"),
        # names: case, accents, components left out, groups
        ("PatientName", "MUELLER", ""),
        ("PatientName", "muller", "12"),
        ("PatientName", "Müller", "12"),
        ("PatientName", "müller^jörg", "1"),
        ("PatientName", "MULLER^JORG^^DR.", "1"),
        ("PatientName", "MULLER^^", "12"),
        ("PatientName", "MULLER^*", "12"),
        ("PatientName", "muller*", "124"),
        ("PatientName", "m?ller^*", "12"),
        ("PatientName", "*muller", "128"),
        ("PatientName", "*^jorg", "1"),
        ("PatientName", "*muller*", "1248"),
        ("PatientName", "山田", "3"),
        ("PatientName", "山*", "3"),
        ("PatientName", "=山田^太郎", "3"),
        ("PatientName", "YAMADA=山田", "3"),
        ("PatientName", "YAMADA=田中", ""),
        ("PatientName", "やまだ^た?う", "3"),
        ("PatientName", "o'hara", "5"),
        ("PatientName", "' OR 1=1 --", ""),
        ("PatientName", "ΔΙΟΝΥΣΙΟΥ", "7"),
        ("PatientName", "Abel\\Yamada", "38"),
        # other names are matched group by group
        ("ReferringPhysicianName", "house", "12"),
        ("ReferringPhysicianName", "HOUSE^G*", "12"),
        ("ReferringPhysicianName", "ハウス", "12"),
        ("ReferringPhysicianName", "=ハウス", "12"),
        ("ReferringPhysicianName", "Gregory", ""),
        # text: exact, in its own case; the wildcards of SQL mean nothing
        ("PatientID", "ABC-1", "1"),
        ("PatientID", "abc*", "2"),
        ("PatientID", "?BC-1", "1"),
        ("PatientID", "J_*", "3"),
        ("PatientID", "J%?", "4"),
        ("PatientID", "?%*", "4"),
        ("PatientID", "~?", "5"),
        ("PatientID", "~*", "5"),
        ("PatientID", "ABC-1\\8", "18"),
        ("PatientID", "A*\\8", "18"),
        ("StudyDescription", "*thorax", ""),
        ("StudyDescription", "*Thorax", "1"),
        # several values in one attribute
        ("OtherPatientIDs", "X1", "1"),
        ("OtherPatientIDs", "X2", "1"),
        ("OtherPatientIDs", "X1*", "12"),
        ("OtherPatientIDs", "X", ""),
        # lists of UIDs
        ("StudyInstanceUID", "1.3", "3"),
        ("StudyInstanceUID", "1.3\\1.5\\9", "35"),
        ("StudyInstanceUID", "1.*", ""),
        # dates
        ("StudyDate", "20240101", "18"),
        ("StudyDate", "20240101-20240131", "1238"),
        ("StudyDate", "20240131-", "34"),
        ("StudyDate", "-20231231", "67"),
        ("StudyDate", "19991231", "7"),
        ("StudyDate", "2024.01.01-2024.01.02", "128"),
        ("StudyDate", "20240102\\20240201", "24"),
        # times of unequal precision: 10 is 10:00 in a range, 1015 is 10:15
        ("StudyTime", "101500", "12"),
        ("StudyTime", "1015", "128"),
        ("StudyTime", "10:15", "128"),
        ("StudyTime", "1000-1015", "1238"),
        ("StudyTime", "100000-101500", "123"),
        ("StudyTime", "1001-", "12478"),
        ("StudyTime", "-000000", "6"),
        ("StudyTime", "101530-101530.6", "8"),
        ("StudyTime", "101530.6-11", ""),
        ("StudyTime", "2359-", "47"),
        # related entities
        ("ModalitiesInStudy", "MR", "1"),
        ("ModalitiesInStudy", "mr\\xa", "1"),
        ("ModalitiesInStudy", "C*", "12345678"),
        ("ModalitiesInStudy", "US\\PT", ""),
        ("SOPClassesInStudy", SR, "1"),
        ("NumberOfStudyRelatedSeries", "77", "12345678"),
        # below the level: not matched
        ("Modality", "XA", "12345678"),
        ("SOPInstanceUID", "9", "12345678"),
    ],
)
def test_study_level(catalog: Catalog, keyword: str, text: str, found: str) -> None:
    assert studies(catalog, Query.of(Level.STUDY, {keyword: text}, ["StudyInstanceUID"])) == found


@pytest.mark.parametrize(
    ("keyword", "text", "n_found"),
    [
        ("InstanceNumber", "3", 1),
        ("InstanceNumber", "03", 1),
        ("InstanceNumber", "3.5", 0),
        ("InstanceNumber", "2\\3", 2),
        ("ImageType", "PRIMARY", 8),
        ("ImageType", "axial", 8),
        ("ImageType", "ORIGINAL\\AXIAL", 8),
        ("ImageType", "SAGITTAL", 0),
        ("SOPClassUID", SR, 1),
        ("Modality", "CT", 9),
        ("AcquisitionDateTime", "20240101", 1),
        ("AcquisitionDateTime", "20240101101500", 1),
        ("AcquisitionDateTime", "2024010110+0100", 1),
        ("AcquisitionDateTime", "20240101101501-", 0),
        ("AcquisitionDateTime", "20240101+0100-20240102+0100", 1),
        ("AcquisitionDateTime", "2023-20231231", 0),
        ("PatientName", "muller", 5),
    ],
)
def test_image_level(catalog: Catalog, keyword: str, text: str, n_found: int) -> None:
    assert catalog.count(Query.of(Level.IMAGE, {keyword: text})) == n_found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("jorg muller", "1"),
        ("mul ott", "4"),
        ("yama", "3"),
        ("太 山", "3"),
        ("uller", ""),
        ("Muller, A*", "28"),
    ],
)
def test_fuzzy_names_match_words_from_their_beginning(catalog: Catalog, name: str, found: str) -> None:
    query = Query(Level.STUDY, (Key.parse("PatientName", name),), ("StudyInstanceUID",), fuzzy=True)
    assert studies(catalog, query) == found


def test_date_and_time_as_one_value(catalog: Catalog) -> None:
    keys = (Key.parse("StudyDate", "20240101-20240131"), Key.parse("StudyTime", "101530-09"))
    returned = ("StudyInstanceUID",)
    apart = Query(Level.STUDY, keys, returned)
    assert studies(catalog, apart) == ""
    together = Query(Level.STUDY, keys, returned, combined_time=True)
    assert studies(catalog, together) == "28"  # study 3 is at 10 on the last day


def test_empty_value_matching(catalog: Catalog) -> None:
    returned = ("StudyInstanceUID",)
    key = Key.parse("StudyDate", '""', empty_values=True)
    assert studies(catalog, Query(Level.STUDY, (key,), returned)) == "5"
    with pytest.raises(QueryError):
        Key.parse("StudyDate", '""')


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("StudyDate", "monday"),
        ("StudyDate", "20240101-x"),
        ("StudyTime", "9"),
        ("AcquisitionDateTime", "2024-1-1"),
    ],
)
def test_senseless_dates_are_an_error_not_everything(keyword: str, text: str) -> None:
    with pytest.raises(QueryError, match=keyword):
        Key.parse(keyword, text)


def test_keys_that_the_catalog_does_not_keep() -> None:
    with pytest.raises(QueryError, match="PregnancyStatus"):
        Key.parse("PregnancyStatus", "4")
    query = Query.of(Level.PATIENT, {"PregnancyStatus": "4", "PatientID": ""})
    assert [key.matching for key in query.keys] == [Matching.UNIVERSAL]
    assert query.returned == ("PregnancyStatus", "PatientID")


def test_values_come_back_as_text_and_missing_ones_empty(catalog: Catalog) -> None:
    returned = (
        "PatientName", "PatientBirthDate", "PregnancyStatus", "ModalitiesInStudy", "SOPClassesInStudy",
        "NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries", "NumberOfPatientRelatedInstances",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "Modality",
    )  # fmt: skip
    (match,) = catalog.find(Query.of(Level.STUDY, {"PatientID": "ABC-1"}, returned))
    assert match == {
        "PatientID": "ABC-1",
        "PatientName": "Müller^Jörg^^Dr.",
        "PatientBirthDate": "",
        "PregnancyStatus": "",
        "ModalitiesInStudy": "CT\\MR\\SR",
        "SOPClassesInStudy": f"1.2.840.10008.5.1.4.1.1.2\\{SR}",
        "NumberOfPatientRelatedStudies": "1",
        "NumberOfPatientRelatedSeries": "3",
        "NumberOfPatientRelatedInstances": "4",
        "NumberOfStudyRelatedSeries": "3",
        "NumberOfStudyRelatedInstances": "4",
        "Modality": "",
    }


def test_lower_levels_return_what_belongs_to_the_upper_ones(catalog: Catalog) -> None:
    query = Query.of(
        Level.SERIES,
        {"StudyInstanceUID": "1.1"},
        ["SeriesInstanceUID", "PatientID", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"],
    )
    assert [tuple(match.values()) for match in catalog.find(query)] == [
        ("1.1", "1.1.1", "ABC-1", "4", "2"),
        ("1.1", "1.1.2", "ABC-1", "4", "1"),
        ("1.1", "1.1.3", "ABC-1", "4", "1"),
    ]
    query = Query.of(
        Level.IMAGE,
        {"SeriesInstanceUID": "1.1.3"},
        ["SOPInstanceUID", "SOPClassUID", "AvailableTransferSyntaxUID"],
    )
    assert [tuple(match.values()) for match in catalog.find(query)] == [
        ("1.1.3", "1.1.3.1", SR, "1.2.840.10008.1.2.1")
    ]


def test_pages_follow_each_other_without_gap_or_overlap(catalog: Catalog) -> None:
    def page(limit: int | None, offset: int, keys: tuple[Key, ...] = ()) -> list[str]:
        query = Query(Level.STUDY, keys, ("StudyInstanceUID",), limit=limit, offset=offset)
        return [match["StudyInstanceUID"] for match in catalog.find(query)]

    everything = page(None, 0)
    assert everything == [f"1.{n}" for n in range(8, 0, -1)]  # the newest first
    assert page(3, 0) + page(3, 3) + page(3, 6) == everything
    since = (Key.parse("StudyDate", "20240101-"),)
    assert page(2, 0, since) + page(2, 2, since) + page(2, 4, since) == page(None, 0, since)
    assert catalog.count(Query(Level.STUDY, since, limit=2)) == 5


def test_a_page_and_all_matches_are_the_same_whether_few_or_many(
    tmp_path: Path, new_catalog_url: NewCatalogUrl
) -> None:
    url = new_catalog_url(tmp_path)
    fill(url, 4 * 120)  # more images than one batch
    catalog = Catalog.open(url)
    returned = (
        "SOPInstanceUID",
        "InstanceNumber",
        "Modality",
        "PatientName",
        "NumberOfStudyRelatedInstances",
    )
    for level in (Level.IMAGE, Level.SERIES, Level.STUDY):
        for keys in ((), (Key.parse("Modality", "C*\\MR"),), (Key.parse("InstanceNumber", "1\\2\\3?"),)):
            query = Query(level, keys, returned)
            pages = [catalog.find(replace(query, limit=70, offset=at)) for at in range(0, 480, 70)]
            assert list(catalog.find(query)) == [match for page in pages for match in page]
            assert catalog.count(query) == len(list(catalog.find(query)))
    catalog.close()


def test_a_list_of_uids_of_any_length(catalog: Catalog) -> None:
    uids = "\\".join(f"9.{n}" for n in range(40_000)) + "\\1.3.1.1\\1.5.1.1"
    query = Query.of(Level.IMAGE, {"SOPInstanceUID": uids})
    assert [located.sop_instance_uid for located in catalog.locate(query)] == ["1.3.1.1", "1.5.1.1"]
    assert [match["SOPInstanceUID"] for match in catalog.find(query)] == ["1.3.1.1", "1.5.1.1"]


def test_locate_takes_keys_of_every_level(catalog: Catalog) -> None:
    def located(level: Level, **keys: str) -> list[str]:
        return [item.sop_instance_uid for item in catalog.locate(Query.of(level, keys))]

    assert located(Level.PATIENT, PatientID="ABC-1") == ["1.1.1.1", "1.1.1.2", "1.1.2.1", "1.1.3.1"]
    assert located(Level.STUDY, PatientID="ABC-1", StudyInstanceUID="1.2") == []
    assert located(Level.SERIES, StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2\\1.1.3") == [
        "1.1.2.1",
        "1.1.3.1",
    ]


def test_only_what_is_served_is_found(tmp_path: Path, new_catalog_url: NewCatalogUrl) -> None:
    """A version in another study took the place of the only instance here: nothing is left to find."""
    catalog = Catalog.open(new_catalog_url(tmp_path))
    enter(catalog, "1.2", "old", PatientID="P1", StudyInstanceUID="1", SeriesInstanceUID="1.1")
    enter(catalog, "1.2", "new", PatientID="P2", StudyInstanceUID="2", SeriesInstanceUID="2.1", second=1)
    for level, keyword, found in (
        (Level.PATIENT, "PatientID", "P2"),
        (Level.STUDY, "StudyInstanceUID", "2"),
        (Level.SERIES, "SeriesInstanceUID", "2.1"),
        (Level.IMAGE, "StudyInstanceUID", "2"),
    ):
        assert [match[keyword] for match in catalog.find(Query(level, (), (keyword,)))] == [found]
    assert studies(catalog, Query.of(Level.STUDY, {"ModalitiesInStudy": "CT", "StudyInstanceUID": ""})) == ""
    catalog.close()


def test_many_matches_come_in_batches_while_the_catalog_changes(
    tmp_path: Path, new_catalog_url: NewCatalogUrl
) -> None:
    catalog = Catalog.open(new_catalog_url(tmp_path))
    for number in range(600):
        enter(catalog, f"1.2.{number}")
    matches = catalog.find(Query(Level.IMAGE, (), ("SOPInstanceUID",)))
    first = next(matches)
    enter(catalog, "1.3")  # no reader holds the database while its consumer thinks
    assert [first["SOPInstanceUID"], *(m["SOPInstanceUID"] for m in matches)] == [
        f"1.2.{number}" for number in range(600)
    ]
    catalog.close()
