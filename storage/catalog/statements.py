"""The statements of a search, made and compiled once for each form of query, and what their rows mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, func, select
from sqlalchemy.engine import Dialect

from dcmpress.storage.catalog.attributes import BY_KEYWORD, Attribute, Level
from dcmpress.storage.catalog.conditions import TABLES, Values, condition, visible
from dcmpress.storage.catalog.matching import Form, query_tests
from dcmpress.storage.catalog.prepared import Prepared, parameter
from dcmpress.storage.catalog.query import Query

if TYPE_CHECKING:
    from dcmpress.storage.catalog.database import Database

BATCH = 250
"""Matches whose values are read at a time."""

Match = dict[str, str]
"""Keyword -> text of one match, values joined by a backslash; empty where there is none."""

Tests = tuple[tuple[Level, Form], ...]

_KEPT = 512
"""Statements of each kind that are kept compiled: what the viewers of a hospital ask, many times over."""

_MOST_VALUES = 100
"""Values of a query whose statement is kept: a list of UIDs is hardly ever asked for with the same length again."""

_PATIENT, _STUDY, _SERIES, _INSTANCE = TABLES.values()

_UP: dict[Level, tuple[Any, Any]] = {
    Level.STUDY: (_STUDY, _STUDY.c.pk == _SERIES.c.study_pk),
    Level.SERIES: (_SERIES, _SERIES.c.pk == _INSTANCE.c.series_pk),
    Level.PATIENT: (_PATIENT, _PATIENT.c.pk == _STUDY.c.patient_pk),
}
"""Level -> its table and how the level below refers to it."""


@dataclass(frozen=True)
class Selection:
    """How the matches of queries of one form are read, in rows of integers and texts; the first is the key."""

    dialect: Dialect
    level: Level
    tests: Tests
    returned: tuple[str, ...]
    first: Prepared
    """The first matches: takes the tests' values, the limit and the offset."""
    stored: tuple[tuple[str, int], ...]
    """Keyword, and its place in a row."""
    computed: tuple[tuple[str, int], ...]
    """Keyword, and the place of its owner's key in a row."""

    def of_keys(self, n: int) -> Prepared:
        """Return the statement for the entities with the keys that `padded` makes of `n` keys."""
        return _of_keys(self.dialect, self.level, self.returned, _padded_length(n))

    @staticmethod
    def padded(keys: Sequence[int]) -> list[int]:
        """Return keys, the last one repeated up to one of a few lengths."""
        return [*keys, *[keys[-1]] * (_padded_length(len(keys)) - len(keys))]


def selection(dialect: Dialect, query: Query) -> Selection:
    """Return how the matches of `query` are read from a database of that dialect."""
    tests = query_tests(query)
    forms = tuple((level, test.form) for level, test in tests)
    n_values = sum(len(test.values) for _, test in tests)
    make = _selection if n_values <= _MOST_VALUES else _selection.__wrapped__
    return make(dialect, query.level, forms, query.returned)


@lru_cache(maxsize=_KEPT)
def _selection(dialect: Dialect, level: Level, tests: Tests, returned: tuple[str, ...]) -> Selection:
    numbers = count()
    values = (parameter(n) for n in numbers)
    keys = keys_select(level, tests, values)
    page = keys.limit(parameter(next(numbers), Integer())).offset(parameter(next(numbers), Integer()))
    # The keys are found as if they were all that is asked: other columns cannot tempt the planner to another way.
    statement = _values_select(level, returned).where(TABLES[level].c.pk.in_(page.correlate(None)))
    wanted = _wanted(level, returned)
    places = {name: place for place, name in enumerate(_columns(level, wanted))}
    stored = tuple((a.keyword, places[a.keyword]) for a in wanted if a.origin != "computed")
    computed = tuple((a.keyword, places[_owner(a)]) for a in wanted if a.origin == "computed")
    return Selection(dialect, level, tests, returned, Prepared(statement, dialect), stored, computed)


@lru_cache(maxsize=_KEPT)
def _of_keys(dialect: Dialect, level: Level, returned: tuple[str, ...], n: int) -> Prepared:
    keys = [parameter(k) for k in range(n)]
    return Prepared(_values_select(level, returned).where(TABLES[level].c.pk.in_(keys)), dialect)


def _padded_length(n: int) -> int:
    return min(BATCH, 1 << (n - 1).bit_length())


def keys_select(level: Level, tests: Tests, values: Values) -> Any:
    """Return the statement for the keys of what passes the tests, with `values` bound, in the order of answers."""
    table = TABLES[level]
    top = min([level, *(of for of, _ in tests)])
    statement = select(table.c.pk).select_from(_joined(level, top))
    statement = statement.where(*(condition(form, values) for _, form in tests), visible(level))
    # With a condition, the order must not tempt the planner away from the condition's index.
    order = table.c.pk + 0 if tests else table.c.pk
    return statement.order_by(order.desc() if level <= Level.STUDY else order)


@cache
def _joined(level: Level, top: Level) -> Any:
    """Return the tables from `level` up to `top`, joined."""
    joined = TABLES[level]
    for upper in range(level - 1, top - 1, -1):
        table, on = _UP[Level(upper)]
        joined = joined.join(table, on)
    return joined


def _wanted(level: Level, returned: tuple[str, ...]) -> list[Attribute]:
    wanted = [BY_KEYWORD[keyword] for keyword in returned if keyword in BY_KEYWORD]
    return [attribute for attribute in wanted if attribute.level <= level]


def _owner(attribute: Attribute) -> str:
    """Return the name of the column that holds the key of what a computed attribute is computed for."""
    return f"{attribute.level.name.lower()}_key"


def _columns(level: Level, wanted: Sequence[Attribute]) -> dict[str, Any]:
    columns: dict[str, Any] = {"key": TABLES[level].c.pk}
    for attribute in wanted:
        if attribute.origin == "computed":
            columns[_owner(attribute)] = TABLES[attribute.level].c.pk
        else:
            columns[attribute.keyword] = TABLES[attribute.level].c[attribute.column]
    return columns


def _values_select(level: Level, returned: tuple[str, ...]) -> Any:
    wanted = _wanted(level, returned)
    top = min([level, *(attribute.level for attribute in wanted)])
    columns = _columns(level, wanted)
    labelled = (column.label(name) for name, column in columns.items())
    return select(*labelled).select_from(_joined(level, top))


def matches_of(database: "Database", found: Selection, rows: Sequence[Sequence[Any]]) -> list[Match]:
    """Return the matches that the rows of a selection stand for, in their order."""
    computed = [
        (keyword, place, _computed(database, keyword, {row[place] for row in rows}))
        for keyword, place in found.computed
    ]
    blank = dict.fromkeys(found.returned, "")
    matches = []
    for row in rows:
        match = blank.copy()
        for keyword, place in found.stored:
            value = row[place]
            if value is not None:
                match[keyword] = value if value.__class__ is str else str(value)
        for keyword, place, texts in computed:
            match[keyword] = texts.get(row[place], "")
        matches.append(match)
    return matches


def _computed(database: "Database", keyword: str, owners: set[int]) -> dict[int, str]:
    """Return owner's key -> its values, several joined by a backslash, sorted."""
    if not owners:
        return {}
    keys = Selection.padded(list(owners))
    values: dict[int, list[str]] = {}
    for owner, value in database.rows(_related(database.dialect, keyword, len(keys)), keys):
        if value is not None:
            values.setdefault(owner, []).append(str(value))
    return {owner: "\\".join(sorted(texts)) for owner, texts in values.items()}


_OF_PATIENT, _OF_STUDY, _OF_SERIES = _STUDY.c.patient_pk, _SERIES.c.study_pk, _INSTANCE.c.series_pk

_RELATED: dict[str, tuple[Any, Any, Level, Level]] = {
    "NumberOfPatientRelatedStudies": (_OF_PATIENT, None, Level.STUDY, Level.STUDY),
    "NumberOfPatientRelatedSeries": (_OF_PATIENT, None, Level.SERIES, Level.STUDY),
    "NumberOfPatientRelatedInstances": (_OF_PATIENT, None, Level.IMAGE, Level.STUDY),
    "ModalitiesInStudy": (_OF_STUDY, _SERIES.c.modality, Level.SERIES, Level.SERIES),
    "SOPClassesInStudy": (_OF_STUDY, _INSTANCE.c.sop_class_uid, Level.IMAGE, Level.SERIES),
    "NumberOfStudyRelatedSeries": (_OF_STUDY, None, Level.SERIES, Level.SERIES),
    "NumberOfStudyRelatedInstances": (_OF_STUDY, None, Level.IMAGE, Level.SERIES),
    "NumberOfSeriesRelatedInstances": (_OF_SERIES, None, Level.IMAGE, Level.IMAGE),
}
"""Computed keyword -> key of its owner, the value (None: their number), and the levels that are joined."""


@lru_cache(maxsize=_KEPT)
def _related(dialect: Dialect, keyword: str, n: int) -> Prepared:
    """Return the statement of (owner, value) over what is visible, for `n` owners."""
    owner, value, level, top = _RELATED[keyword]
    statement = select(owner, func.count() if value is None else value).select_from(_joined(level, top))
    statement = statement.where(visible(level), owner.in_([parameter(k) for k in range(n)]))
    return Prepared(statement.group_by(owner) if value is None else statement.distinct(), dialect)
