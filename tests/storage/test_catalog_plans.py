"""The queries that workstations send are served by indexes."""

import random
import re
from collections.abc import Iterator

import pytest
from bench.catalog_growth import fill, queries
from sqlalchemy.dialects import sqlite

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.matching import query_tests
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.catalog.search import keys_statement
from dcmpress.storage.catalog.statements import BATCH, selection

N_STUDIES = 20


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'catalog.db'}"
    assert fill(url, N_STUDIES * 120) == N_STUDIES
    database = Database(url)
    yield database
    database.close()


def plan(database: Database, query: Query) -> list[str]:
    compiled = keys_statement(query).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    with database.reading() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")
        return [row[-1] for row in rows]


def plan_of_first(database: Database, query: Query) -> list[str]:
    """Return the plan of the statement that reads the first matches with their values."""
    first = selection(database.dialect, query).first
    values = [value for _, test in query_tests(query) for value in test.values]
    parameters = first.bound([*values, query.limit or BATCH + 1, query.offset])
    with database.reading() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {first.sql}", parameters)
        return [row[-1] for row in rows]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("by patient id", "ix_patient_patient_id"),
        ("by name", "ix_patient_patient_name_(alphabetic|ideographic|phonetic)"),
        ("by name at patient level", "ix_patient_patient_name_(alphabetic|ideographic|phonetic)"),
        ("by accession", "ix_study_accession_number"),
        ("by day and modality", "ix_study_study_date"),
        ("by week and name", "ix_study_study_date|ix_patient_patient_name_alphabetic"),
        ("series of study", "sqlite_autoindex_study_1"),
        ("images of series", "ix_series_series_instance_uid|sqlite_autoindex_s(eries|tudy)_1"),
    ],
)
def test_the_query_is_served_by_an_index(database: Database, name: str, index: str) -> None:
    query = queries(N_STUDIES)[name](random.Random(3))
    for steps in (plan(database, query), plan_of_first(database, query)):
        assert any(re.search(index, step) for step in steps), steps
        assert not any(re.match(r"SCAN (patient|study|series|instance)\b", step) for step in steps), steps


def test_the_newest_studies_are_read_from_the_end(database: Database) -> None:
    steps = plan(database, Query(Level.STUDY, limit=8))
    assert steps[0] == "SCAN study"
    assert not any("TEMP B-TREE" in step for step in steps), steps
    first = plan_of_first(database, Query(Level.STUDY, (), ("StudyDate", "PatientName"), limit=8))
    assert [step for step in first if step.startswith("SCAN")] == ["SCAN study"], first
    assert not any("TEMP B-TREE" in step for step in first), first


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_a_list_of_uids_is_looked_up(database: Database, keyword: str) -> None:
    steps = plan(database, Query.of(Level.IMAGE, {keyword: "1.2.826.0.1.1\\1.2.826.0.1.2"}))
    assert not any(step.startswith("SCAN") for step in steps), steps


def test_statements_are_kept_by_form_and_long_lists_are_not(database: Database) -> None:
    def statement(level: Level, **texts: str) -> object:
        return selection(database.dialect, Query.of(level, texts)).first

    first = statement(Level.STUDY, PatientName="A*", StudyDate="20200101-")
    assert statement(Level.STUDY, PatientName="B*", StudyDate="20210101-") is first
    assert statement(Level.STUDY, PatientName="B*C", StudyDate="20210101-") is not first
    assert statement(Level.SERIES, PatientName="A*", StudyDate="20200101-") is not first
    uids = "\\".join(f"1.2.{number}" for number in range(101))
    assert statement(Level.STUDY, StudyInstanceUID=uids) is not statement(Level.STUDY, StudyInstanceUID=uids)
