"""The SQL of tests: forms of `matching` as SQLAlchemy conditions. Values are always bound, never written into it."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, false, func, literal, or_, true

from dcmpress.storage.catalog.attributes import Level
from dcmpress.storage.catalog.matching import ESCAPE, SEPARATOR, Form, Place
from dcmpress.storage.catalog.models import Instance, Patient, Series, Study

Condition = ColumnElement[bool]
Values = Iterator[ColumnElement[Any]]
"""What is bound in the places of a form's values, in their order."""

TABLES: dict[Level, Any] = {
    level: model.__table__ for level, model in zip(Level, (Patient, Study, Series, Instance), strict=True)
}
_PATIENT, _STUDY, _SERIES, _INSTANCE = TABLES.values()


def condition(form: Form, values: Values) -> Condition:
    """Return the condition that a form stands for, with as many of `values` as it takes."""
    operation, *operands = form
    return OPERATIONS[operation](values, *operands)


@cache
def visible(level: Level) -> Condition:
    """Return the condition that an entity has an instance that is found and served."""
    if level == Level.IMAGE:
        return _INSTANCE.c.current
    instances = _INSTANCE.c.current & (_INSTANCE.c.series_pk == _SERIES.c.pk)
    if level == Level.SERIES:
        return _exists(_INSTANCE, instances)
    series = _SERIES.c.study_pk == _STUDY.c.pk
    if level == Level.STUDY:
        return _exists(_SERIES, series & _exists(_INSTANCE, instances))
    study = _STUDY.c.patient_pk == _PATIENT.c.pk
    return _exists(_STUDY, study & _exists(_SERIES, series & _exists(_INSTANCE, instances)))


def _exists(table: Any, inner_condition: Any) -> Condition:
    inner = table.select().with_only_columns(literal(1)).where(inner_condition)
    outer = [other for other in TABLES.values() if other is not table]
    return inner.correlate(*outer).exists()


def _column(place: Place) -> Any:
    level, name, *as_text = place
    column = TABLES[level].c[name]
    return cast(column, Text) if as_text else column


def _and(values: Values, *forms: Form) -> Condition:
    return and_(true(), *[condition(form, values) for form in forms])


def _or(values: Values, *forms: Form) -> Condition:
    return or_(false(), *[condition(form, values) for form in forms])


def _in(values: Values, place: Place, count: int) -> Condition:
    return _column(place).in_([next(values) for _ in range(count)])


def _among_like(values: Values, place: Place) -> Condition:
    wrapped = literal(SEPARATOR) + _column(place) + SEPARATOR
    return wrapped.like(next(values), escape=ESCAPE)


def _words_like(values: Values, *places: Place) -> Condition:
    text: Any = literal("")
    for place in places:
        text = text + "^" + func.replace(func.coalesce(_column(place), ""), " ", "^")
    return text.like(next(values), escape=ESCAPE)


def _series_of_study(values: Values, form: Form) -> Condition:
    in_study = _SERIES.c.study_pk == _STUDY.c.pk
    return _exists(_SERIES, in_study & condition(form, values) & visible(Level.SERIES))


def _instance_of_study(values: Values, form: Form) -> Condition:
    in_series = _INSTANCE.c.current & (_INSTANCE.c.series_pk == _SERIES.c.pk)
    found = _exists(_INSTANCE, in_series & condition(form, values))
    return _exists(_SERIES, (_SERIES.c.study_pk == _STUDY.c.pk) & found)


OPERATIONS: dict[str, Callable[..., Condition]] = {
    "always": lambda _: true(),
    "never": lambda _: false(),
    "and": _and,
    "or": _or,
    "=": lambda values, place: _column(place) == next(values),
    ">": lambda values, place: _column(place) > next(values),
    ">=": lambda values, place: _column(place) >= next(values),
    "<": lambda values, place: _column(place) < next(values),
    "in": _in,
    "null": lambda _, place: _column(place).is_(None),
    "not null": lambda _, place: _column(place).is_not(None),
    "like": lambda values, place: _column(place).like(next(values), escape=ESCAPE),
    "among like": _among_like,
    "words like": _words_like,
    "series of study": _series_of_study,
    "instance of study": _instance_of_study,
}
"""What the operations of forms mean; each takes its values first."""
