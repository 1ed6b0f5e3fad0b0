"""The way from the spool into blobs, and what is counted."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.errors import UnknownBlobError
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.catalog.recording import Outcome
from dcmpress.storage.catalog.settling import BlobFacts
from dcmpress.storage.catalog.statistics import Share
from tests.postgresql import NewCatalogUrl
from tests.storage.catalog_entries import EPOCH, enter, received

FACTS = BlobFacts(
    size=300,
    raw_size=2010,
    n_instances=2,
    codec="interframe",
    format_version=1,
    parameters={"effort": "fast"},
)


@pytest.fixture
def catalog(tmp_path: Path, new_catalog_url: NewCatalogUrl) -> Iterator[Catalog]:
    catalog = Catalog.open(new_catalog_url(tmp_path))
    yield catalog
    catalog.close()


def test_the_worklist_names_series_with_spooled_instances(catalog: Catalog) -> None:
    enter(catalog, "1.2.1", second=9, Manufacturer="ACME")
    enter(catalog, "1.2.2", second=5)
    enter(catalog, "1.3.1", second=7, SeriesInstanceUID="1.1.2", Modality="SR")
    first, second = catalog.settling.spooled_series()
    assert (first.modality, first.n_instances, first.newest) == ("SR", 1, EPOCH + timedelta(seconds=7))
    assert (second.series_instance_uid, second.manufacturer, second.n_instances, second.size) == (
        "1.1.1",
        "ACME",
        2,
        2010,
    )
    assert catalog.settling.spooled_series(quiet_since=EPOCH + timedelta(seconds=8)) == [first]


def test_spooled_instances_come_in_order_and_whole(catalog: Catalog) -> None:
    for number in (3, 1, 2):
        enter(catalog, f"1.2.{number}", spool_name=f"file {number}", InstanceNumber=str(number))
    (series,) = catalog.settling.spooled_series()
    spooled = catalog.settling.spooled_in(series.series_pk)
    assert [instance.spool_name for instance in spooled] == ["file 1", "file 2", "file 3"]
    assert spooled[0].sha256 == received("1.2.1").sha256
    assert (spooled[0].calling_ae, spooled[0].instance_number) == ("SCANNER", 1)


def test_settling_moves_instances_and_frees_their_spool_files(catalog: Catalog) -> None:
    pks = [enter(catalog, f"1.2.{n}", spool_name=f"file {n}").instance_pk for n in range(3)]
    settling = catalog.settling
    blob = settling.begin_blob("blob 1")
    assert settling.blobs_being_written() == [(blob, "blob 1")]
    assert sorted(settling.settle(blob, FACTS, [(pks[1], 0), (pks[0], 1)])) == ["file 0", "file 1"]
    assert settling.blobs_being_written() == []
    assert settling.spool_names() == {"file 2"}
    assert [(v.sop_instance_uid, v.blob_index) for v in catalog.in_blob("blob 1")] == [
        ("1.2.1", 0),
        ("1.2.0", 1),
    ]
    located = catalog.locate(Query.of(Level.STUDY, {"StudyInstanceUID": "1.1"}))
    assert [(v.spool_name, v.blob_name, v.blob_index) for v in located] == [
        ("file 2", None, None),
        (None, "blob 1", 0),
        (None, "blob 1", 1),
    ]


def test_settling_twice_is_refused_and_changes_nothing(catalog: Catalog) -> None:
    pk = enter(catalog, "1.2").instance_pk
    blob = catalog.settling.begin_blob("blob")
    catalog.settling.settle(blob, FACTS, [(pk, 0)])
    with pytest.raises(UnknownBlobError):
        catalog.settling.settle(blob, FACTS, [(pk, 7)])
    assert catalog.in_blob("blob")[0].blob_index == 0


def test_an_instance_replaced_while_it_was_compressed_is_passed_over(catalog: Catalog) -> None:
    pk = enter(catalog, "1.2", "old", spool_name="a").instance_pk
    blob = catalog.settling.begin_blob("blob")
    enter(catalog, "1.2", "new", spool_name="b", second=1, on_conflict="replace")
    assert catalog.settling.settle(blob, FACTS, [(pk, 0)]) == []
    assert catalog.settling.unreferenced_blobs() == [(blob, "blob")]
    assert [version.spool_name for version in catalog.versions("1.2")] == ["b"]


def test_an_abandoned_blob_leaves_its_instances_in_the_spool(catalog: Catalog) -> None:
    enter(catalog, "1.2", spool_name="a")
    blob = catalog.settling.begin_blob("blob")
    catalog.settling.abandon_blob(blob)
    assert catalog.settling.blobs_being_written() == []
    assert catalog.settling.spool_names() == {"a"}


def test_recompression_moves_instances_to_another_blob(catalog: Catalog) -> None:
    pk = enter(catalog, "1.2").instance_pk
    blobs = [catalog.settling.begin_blob(name) for name in ("fast", "dense")]
    catalog.settling.settle(blobs[0], FACTS, [(pk, 0)])
    with pytest.raises(UnknownBlobError):
        catalog.settling.forget_blob(blobs[0])
    assert catalog.settling.settle(blobs[1], FACTS, [(pk, 4)]) == []
    assert catalog.settling.unreferenced_blobs() == [(blobs[0], "fast")]
    catalog.settling.forget_blob(blobs[0])
    (version,) = catalog.versions("1.2")
    assert (version.blob_name, version.blob_index) == ("dense", 4)


def test_a_blob_is_adopted_into_an_empty_catalog(catalog: Catalog) -> None:
    attributes = {
        "PatientID": "P1",
        "StudyInstanceUID": "1.1",
        "SeriesInstanceUID": "1.1.1",
        "Modality": "CT",
    }
    contents = [(received(f"1.2.{n}", second=n), attributes, n) for n in range(2)]
    recorded = catalog.settling.adopt_blob("blob", FACTS, contents)
    assert [r.outcome for r in recorded] == [Outcome.NEW, Outcome.NEW]
    assert catalog.settling.adopt_blob("blob", FACTS, contents) == []
    assert [v.sop_instance_uid for v in catalog.in_blob("blob")] == ["1.2.0", "1.2.1"]
    assert catalog.settling.spool_names() == set()
    assert enter(catalog, "1.2.0", second=9).outcome is Outcome.DUPLICATE


def test_adopted_versions_are_served_by_time_whatever_the_order(catalog: Catalog) -> None:
    for name, content, second in (("b", "new", 2), ("a", "old", 1)):
        catalog.settling.adopt_blob(name, FACTS, [(received("1.2", content, second=second), {}, 0)])
    assert [version.blob_name for version in catalog.versions("1.2")] == ["b", "a"]


def test_statistics_count_every_version_and_divide_blobs(catalog: Catalog) -> None:
    ct = enter(catalog, "1.2.1").instance_pk
    mr = enter(catalog, "1.2.2", SeriesInstanceUID="1.1.2", Modality="MR").instance_pk
    enter(catalog, "1.2.3", "a longer data set", SeriesInstanceUID="1.1.3", Modality="")
    blob = catalog.settling.begin_blob("blob")
    catalog.settling.settle(blob, FACTS, [(ct, 0), (mr, 1)])
    statistics = catalog.statistics()
    assert statistics.instances == 3
    assert statistics.raw_bytes == 1005 + 1005 + 1017
    assert statistics.stored_bytes == 300 + 1017
    assert (statistics.spool_instances, statistics.spool_bytes) == (1, 1017)
    assert statistics.by_modality == {
        "CT": Share(1, 1005, 150),
        "MR": Share(1, 1005, 150),
        "": Share(1, 1017, 1017),
    }
    assert statistics.by_codec == {"interframe": Share(2, 2010, 300), "spool": Share(1, 1017, 1017)}
    assert (statistics.needs_attention, statistics.damaged) == (0, 0)
