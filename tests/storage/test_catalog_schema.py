"""The one table of attributes, the models and the migrations agree."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag
from sqlalchemy import BigInteger, Text, create_engine, text
from sqlalchemy.exc import IntegrityError

from dcmpress.storage.catalog import migrations
from dcmpress.storage.catalog.attributes import (
    ATTRIBUTES,
    BY_KEYWORD,
    BY_TAG,
    INTEGER_VRS,
    MULTI_VALUED,
    UNIQUE_KEYS,
    Attribute,
    Level,
    wanted_tags,
)
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.conditions import TABLES
from dcmpress.storage.catalog.database import Database
from dcmpress.storage.catalog.errors import CatalogError, CatalogVersionError
from dcmpress.storage.catalog.models import Base
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.catalog.statements import selection
from tests.postgresql import PostgresqlServer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'new folder' / 'catalog.db'}")
    database.upgrade()
    yield database
    database.close()


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.keyword)
def test_attribute_is_in_the_dictionary(attribute: Attribute) -> None:
    assert keyword_for_tag(attribute.tag) == attribute.keyword
    assert dictionary_VR(attribute.tag) == attribute.vr
    has_many = attribute.origin == "data set" and dictionary_VM(attribute.tag) != "1"
    assert (attribute.keyword in MULTI_VALUED) == has_many


def test_no_attribute_stands_twice() -> None:
    assert len(BY_KEYWORD) == len(BY_TAG) == len(ATTRIBUTES)


def test_every_attribute_has_its_column() -> None:
    for attribute in ATTRIBUTES:
        columns = TABLES[attribute.level].c
        if attribute.origin == "computed":
            assert not attribute.column
            continue
        kind = BigInteger if attribute.vr in INTEGER_VRS else Text
        assert isinstance(columns[attribute.column].type, kind), attribute.keyword
        if attribute.vr == "PN" and attribute.keyword != "PatientName":
            assert f"{attribute.column}_folded" in columns


def test_unique_keys_are_kept_at_their_level() -> None:
    assert all(BY_KEYWORD[keyword].level == level for level, keyword in UNIQUE_KEYS.items())


def test_scan_wants_what_the_data_set_says_and_nothing_else() -> None:
    wanted = wanted_tags()
    assert {0x00080005, 0x00080016, 0x00080018, 0x0020000D, 0x00100010} <= wanted
    assert 0x00201208 not in wanted  # computed
    assert 0x00083002 not in wanted  # known from the association


def test_migrated_schema_is_that_of_the_models(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrated_schema_on_postgresql_is_that_of_the_models(postgresql: PostgresqlServer) -> None:
    database = Database(postgresql.new_database())
    database.upgrade()
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_migrated_indexes_are_those_of_the_models(database: Database) -> None:
    """Alembic does not compare the conditions of partial indexes."""
    statement = text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    engine = create_engine("sqlite://")
    with engine.connect() as created, database.reading() as migrated:
        Base.metadata.create_all(created)
        expected = {tuple(row) for row in created.execute(statement)}
        assert {tuple(row) for row in migrated.execute(statement)} == expected
    engine.dispose()


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    for _ in range(2):
        catalog = Catalog.open(url)
        assert catalog.statistics().instances == 0
        catalog.close()


def test_catalog_of_a_newer_version_is_refused(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CatalogVersionError, match="newer version"):
        Catalog.open(database.url.render_as_string(hide_password=False))


def test_settings_of_sqlite(database: Database) -> None:
    with database.reading() as connection:

        def pragma(name: str) -> object:
            return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 1  # NORMAL
        assert pragma("foreign_keys") == 1
    with database.writing(durable=True) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_what_sqlite_says_against_a_prepared_statement_is_a_catalog_error(database: Database) -> None:
    keys = selection(database.dialect, Query(Level.STUDY, returned=("PatientID",))).first
    assert database.rows(keys, [10, 0]) == []
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE patient RENAME TO gone")
    with pytest.raises(CatalogError, match="no such table"):
        database.rows(keys, [10, 0])
    with database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO patient")
    assert database.rows(keys, [10, 0]) == []


def test_an_error_leaves_no_transaction_behind(database: Database) -> None:
    insert = text("INSERT INTO series (study_pk, series_instance_uid) VALUES (1, '1')")
    for _ in range(3):
        with pytest.raises(IntegrityError), database.writing() as connection:
            connection.execute(insert)
    with database.writing() as connection:
        assert connection.execute(text("SELECT count(*) FROM series")).scalar() == 0


def test_no_key_is_used_twice(database: Database) -> None:
    """SQLite gives the key of a deleted last row to the next one unless told otherwise."""
    statement = text("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%AUTOINCREMENT%'")
    with database.reading() as connection:
        plain = set(connection.execute(statement).scalars())
    assert plain == {"alembic_version", "sqlite_sequence"}
