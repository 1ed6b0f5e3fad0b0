"""What becomes of received instances in the catalog."""

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.catalog.recording import Outcome
from dcmpress.storage.catalog.settling import BlobFacts
from tests.postgresql import NewCatalogUrl
from tests.storage.catalog_entries import EPOCH, enter, received


@pytest.fixture
def url(tmp_path: Path, new_catalog_url: NewCatalogUrl) -> str:
    return new_catalog_url(tmp_path)


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    catalog = Catalog.open(url)
    yield catalog
    catalog.close()


def names(catalog: Catalog, uid: str) -> list[str | None]:
    return [version.spool_name for version in catalog.versions(uid)]


def settle(catalog: Catalog, *instance_pks: int, name: str = "blob") -> int:
    blob = catalog.settling.begin_blob(name)
    facts = BlobFacts(100, 1000, len(instance_pks), "interframe", 1, {"effort": "fast"})
    catalog.settling.settle(blob, facts, [(pk, index) for index, pk in enumerate(instance_pks)])
    return blob


def patients(catalog: Catalog) -> list[dict[str, str]]:
    return list(catalog.find(Query(Level.PATIENT, (), ("PatientID", "PatientName"))))


def test_a_recorded_instance_is_found_with_all_that_was_received(catalog: Catalog) -> None:
    receipt = received("1.2", spool_name="file")
    recorded = catalog.record(receipt, {"StudyInstanceUID": "1", "SeriesInstanceUID": "2"})
    located = catalog.current_version("1.2")
    assert recorded.outcome is Outcome.NEW
    assert located is not None
    assert located.instance_pk == recorded.instance_pk
    assert (located.study_instance_uid, located.series_instance_uid) == ("1", "2")
    assert (located.sop_class_uid, located.transfer_syntax_uid) == (
        receipt.sop_class_uid,
        receipt.transfer_syntax_uid,
    )
    assert (located.size, located.sha256, located.spool_name) == (receipt.size, receipt.sha256, "file")
    assert located.received_at == EPOCH
    assert (located.blob_name, located.blob_index, located.damaged) == (None, None, False)


def test_the_same_bytes_again_change_nothing(catalog: Catalog) -> None:
    first = enter(catalog, "1.2", spool_name="a")
    again = enter(catalog, "1.2", spool_name="b", second=1)
    assert (again.outcome, again.instance_pk) == (Outcome.DUPLICATE, first.instance_pk)
    assert names(catalog, "1.2") == ["a"]


def test_recording_the_same_spool_file_again_does_not_call_it_a_duplicate(catalog: Catalog) -> None:
    """After a crash the spool is recorded anew; a DUPLICATE would make the caller delete the only copy."""
    for _ in range(2):
        recorded = enter(catalog, "1.2", spool_name="a")
        assert (recorded.outcome, recorded.superseded_spool) == (Outcome.NEW, None)
    enter(catalog, "1.2", "other", spool_name="b", second=1)
    for on_conflict in ("keep-both", "replace", "reject"):
        recorded = enter(catalog, "1.2", spool_name="a", on_conflict=on_conflict)
        assert (recorded.outcome, recorded.superseded_spool) == (Outcome.KEPT_BOTH, None)
    assert names(catalog, "1.2") == ["b", "a"]


def test_keep_both_serves_the_newest_and_lists_the_older(catalog: Catalog) -> None:
    enter(catalog, "1.2", "old", spool_name="a")
    recorded = enter(catalog, "1.2", "new", spool_name="b", second=1)
    assert recorded.outcome is Outcome.KEPT_BOTH
    assert [(v.spool_name, v.current) for v in catalog.versions("1.2")] == [("b", True), ("a", False)]
    (located,) = catalog.locate(Query.of(Level.IMAGE, {"SOPInstanceUID": "1.2"}))
    assert located.spool_name == "b"


def test_an_older_version_received_again_is_served_again_and_not_stored_twice(catalog: Catalog) -> None:
    enter(catalog, "1.2", "old", spool_name="a")
    enter(catalog, "1.2", "new", spool_name="b", second=1)
    recorded = enter(catalog, "1.2", "old", spool_name="c", second=2)
    assert recorded.outcome is Outcome.DUPLICATE
    assert names(catalog, "1.2") == ["a", "b"]


def test_reject_leaves_what_is_stored(catalog: Catalog) -> None:
    enter(catalog, "1.2", "old", spool_name="a")
    recorded = enter(catalog, "1.2", "new", spool_name="b", second=1, on_conflict="reject")
    assert recorded.outcome is Outcome.REJECTED
    assert names(catalog, "1.2") == ["a"]


def test_replace_hands_back_the_spool_file_of_the_older_version(catalog: Catalog) -> None:
    enter(catalog, "1.2", "old", spool_name="a")
    recorded = enter(catalog, "1.2", "new", spool_name="b", second=1, on_conflict="replace")
    assert (recorded.outcome, recorded.superseded_spool) == (Outcome.REPLACED, "a")
    assert names(catalog, "1.2") == ["b"]
    assert catalog.settling.spool_names() == {"b"}


def test_replace_no_longer_lists_an_older_version_in_a_blob(catalog: Catalog) -> None:
    settle(catalog, enter(catalog, "1.2", "old").instance_pk)
    recorded = enter(catalog, "1.2", "new", spool_name="b", second=1, on_conflict="replace")
    assert (recorded.outcome, recorded.superseded_spool) == (Outcome.REPLACED, None)
    assert names(catalog, "1.2") == ["b"]
    back = enter(catalog, "1.2", "old", spool_name="c", second=2, on_conflict="replace")
    assert (back.outcome, back.superseded_spool) == (Outcome.DUPLICATE, "b")
    assert [version.blob_name for version in catalog.versions("1.2")] == ["blob"]


def test_replaying_an_older_receipt_never_takes_the_place_of_a_newer(catalog: Catalog) -> None:
    enter(catalog, "1.2", "new", spool_name="b", second=5)
    recorded = enter(catalog, "1.2", "old", spool_name="a", second=1, on_conflict="replace")
    assert recorded.outcome is Outcome.KEPT_BOTH
    assert names(catalog, "1.2") == ["b", "a"]


def test_an_equal_data_set_heals_a_damaged_one(catalog: Catalog) -> None:
    pk = enter(catalog, "1.2", spool_name="a").instance_pk
    settle(catalog, pk)
    catalog.settling.mark_damaged([pk], "checksum")
    recorded = enter(catalog, "1.2", spool_name="b", second=1)
    assert (recorded.outcome, recorded.instance_pk) == (Outcome.HEALED, pk)
    located = catalog.current_version("1.2")
    assert located is not None
    assert (located.spool_name, located.blob_name, located.damaged) == ("b", None, False)


def test_an_equal_data_set_heals_one_whose_spool_file_is_gone(catalog: Catalog) -> None:
    enter(catalog, "1.2", spool_name="a")
    enter(catalog, "1.3", spool_name="b")
    catalog.settling.mark_lost(["a", "unheard of"])
    assert [located.damaged for located in catalog.locate(Query(Level.IMAGE))] == [True, False]
    assert enter(catalog, "1.2", spool_name="c", second=1).outcome is Outcome.HEALED
    assert catalog.settling.spool_names() == {"b", "c"}


def test_healing_hands_back_a_damaged_spool_file(catalog: Catalog) -> None:
    pk = enter(catalog, "1.2", spool_name="a").instance_pk
    catalog.settling.mark_damaged([pk], "checksum")
    assert catalog.settling.spooled_series() == []
    assert enter(catalog, "1.2", spool_name="b", second=1).superseded_spool == "a"


def test_missing_uids_get_placeholders_that_stay_the_same(
    catalog: Catalog, tmp_path: Path, new_catalog_url: NewCatalogUrl
) -> None:
    other = Catalog.open(new_catalog_url(tmp_path / "other"))
    places = []
    for target in (catalog, other):
        enter(target, "1.2", StudyInstanceUID="", SeriesInstanceUID="")
        located = target.current_version("1.2")
        assert located is not None
        places.append((located.study_instance_uid, located.series_instance_uid))
        assert target.statistics().needs_attention == 1
    other.close()
    assert places[0] == places[1]
    assert len(set(places[0])) == 2
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in places[0])


def test_instances_of_a_series_without_study_stay_together(catalog: Catalog) -> None:
    for number in range(3):
        enter(catalog, f"1.2.{number}", StudyInstanceUID="")
    assert len(list(catalog.find(Query(Level.SERIES)))) == 1


def test_patients_are_told_apart(catalog: Catalog) -> None:
    people: list[dict[str, Any]] = [
        {"PatientID": "P1", "PatientName": "Doe^John"},
        {"PatientID": "P1", "PatientName": "DOE^JOHN^^^"},  # the same id: the same patient
        {"PatientID": "P1", "IssuerOfPatientID": "Elsewhere"},
        {"PatientID": "", "PatientName": "Doe^Jane", "PatientBirthDate": "19700101"},
        {"PatientID": "", "PatientName": "doe^jane^", "PatientBirthDate": "1970.01.01"},  # the same
        {"PatientID": "", "PatientName": "Doe^Jane", "PatientBirthDate": "19800101"},
        {"PatientID": "", "PatientName": ""},
        {"PatientID": "", "PatientName": ""},  # nobody says that these two are one
    ]
    for number, person in enumerate(people):
        enter(
            catalog,
            f"1.2.{number}",
            StudyInstanceUID=f"1.{number}",
            SeriesInstanceUID=f"1.{number}.1",
            **person,
        )
    assert len(patients(catalog)) == 6


def test_an_instance_of_another_patient_in_a_known_study_is_flagged(catalog: Catalog) -> None:
    enter(catalog, "1.2.1")
    enter(catalog, "1.2.2", PatientID="P2", PatientName="Roe^Richard")
    assert [patient["PatientID"] for patient in patients(catalog)] == ["P1"]
    assert catalog.statistics().needs_attention == 1


def test_later_instances_fill_what_the_first_left_empty(catalog: Catalog) -> None:
    enter(catalog, "1.2.1", PatientName="")
    enter(catalog, "1.2.2", PatientName="Doe^John", StudyDescription="Knee", Modality="MR")
    enter(catalog, "1.2.3", StudyDescription="Hip")
    query = Query.of(Level.SERIES, {"PatientName": "doe"}, ["PatientName", "StudyDescription", "Modality"])
    assert list(catalog.find(query)) == [
        {"PatientName": "Doe^John", "StudyDescription": "Knee", "Modality": "CT"}
    ]


def test_odd_values_are_recorded_without_complaint(catalog: Catalog) -> None:
    enter(
        catalog,
        "1.2",
        PatientName="Do\0e^\ud800" + "x" * 2000,
        InstanceNumber="seven",
        StudyDate="yesterday",
        SeriesNumber="9" * 30,
        PatientComments="a\r\nb",
        Rows="-1",
    )
    returned = ("PatientName", "InstanceNumber", "StudyDate", "PatientComments", "Rows")
    (match,) = catalog.find(Query(Level.IMAGE, (), returned))
    assert match["PatientName"].startswith("Doe^?x")
    assert match == match | {"InstanceNumber": "", "StudyDate": "yesterday", "PatientComments": "a\r\nb"}


def test_a_series_removed_by_another_process_is_entered_again(catalog: Catalog, url: str) -> None:
    enter(catalog, "1.2.1")
    other = Catalog.open(url)
    with other._database.writing() as connection:
        for table in ("instance", "series", "study", "patient"):
            connection.execute(text(f"DELETE FROM {table}"))
    other.close()
    assert enter(catalog, "1.2.2").outcome is Outcome.NEW
    assert catalog.current_version("1.2.2") is not None


def test_nothing_is_remembered_of_a_transaction_that_failed(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt must enter patient, study and series again: the first was rolled back."""
    recorder = catalog._recorder

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(recorder, "_enter", fail)
        with pytest.raises(RuntimeError):
            enter(catalog, "1.2")
    assert patients(catalog) == []
    enter(catalog, "1.2")
    assert len(patients(catalog)) == 1


def test_threads_record_into_one_new_study_at_once(catalog: Catalog) -> None:
    barrier = threading.Barrier(8)
    outcomes: list[Outcome] = []

    def work(number: int) -> None:
        barrier.wait()
        for instance in range(10):
            uid = f"1.2.{number}.{instance}"
            outcomes.append(enter(catalog, uid, SeriesInstanceUID=f"1.1.{instance % 2}").outcome)
            outcomes.append(enter(catalog, "1.3", f"version {number}", second=number).outcome)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _check_one_study(catalog, 2, 81)
    assert outcomes.count(Outcome.NEW) >= 81  # a repeated call says so again
    assert sum(version.current for version in catalog.versions("1.3")) == 1
    assert len(catalog.versions("1.3")) == 8


def _record_many(url: str, number: int, barrier: "threading.Barrier") -> None:
    catalog = Catalog.open(url)
    barrier.wait()
    for instance in range(25):
        enter(catalog, f"1.2.{number}.{instance}", SeriesInstanceUID=f"1.1.{instance % 2}")
    catalog.close()


def test_processes_create_one_catalog_and_record_into_one_new_study_at_once(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    processes = [spawn.Process(target=_record_many, args=(url, number, barrier)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    catalog = Catalog.open(url)
    _check_one_study(catalog, 2, 75)
    catalog.close()


def _check_one_study(catalog: Catalog, n_series: int, n_instances: int) -> None:
    returned = ("NumberOfPatientRelatedStudies", "NumberOfPatientRelatedSeries")
    (patient,) = catalog.find(Query(Level.PATIENT, (), returned))
    assert patient == {"NumberOfPatientRelatedStudies": "1", "NumberOfPatientRelatedSeries": str(n_series)}
    assert catalog.count(Query(Level.IMAGE)) == n_instances
