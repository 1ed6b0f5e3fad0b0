"""Keys as SQL conditions (PS3.4 C.2.2.2). Values are always bound, never written into the statement.

Conditions take the shape that lets an ordinary index serve them on SQLite and PostgreSQL alike: a prefix
is a range of text, and a range of dates is a range of text. The columns compare by code point.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, cast, false, func, literal, or_, true

from dcmpress.storage.catalog.attributes import INTEGER_VRS, MULTI_VALUED, Level
from dcmpress.storage.catalog.models import Instance, Patient, Series, Study
from dcmpress.storage.catalog.person_name import fold
from dcmpress.storage.catalog.query import Key, Matching, Query
from dcmpress.storage.catalog.values import stored_value

Condition = ColumnElement[bool]

TABLES: dict[Level, Any] = {
    level: model.__table__ for level, model in zip(Level, (Patient, Study, Series, Instance), strict=True)
}
_PATIENT, _STUDY, _SERIES, _INSTANCE = TABLES.values()

_PATIENT_NAMES = (
    _PATIENT.c.patient_name_alphabetic,
    _PATIENT.c.patient_name_ideographic,
    _PATIENT.c.patient_name_phonetic,
)
_SEPARATOR = "\\"
_ESCAPE = "~"
_AFTER_TIME = ":"
"""The character after "9": every continuation of a date or time sorts before value + this."""

_TIME_OF_DATE = {
    "StudyDate": "StudyTime",
    "SeriesDate": "SeriesTime",
    "PatientBirthDate": "PatientBirthTime",
    "ContentDate": "ContentTime",
    "AcquisitionDate": "AcquisitionTime",
    "InstanceCreationDate": "InstanceCreationTime",
    "PerformedProcedureStepStartDate": "PerformedProcedureStepStartTime",
}


def conditions(query: Query) -> list[tuple[Level, Condition]]:
    """Return the conditions of a query, each with the level of the table that it is about."""
    keys = {
        key.attribute.keyword: key
        for key in query.keys
        if key.matching != Matching.UNIVERSAL and key.attribute.level <= query.level
    }
    found = []
    if query.combined_time:
        for date, time in _TIME_OF_DATE.items():
            if date in keys and time in keys and _is_one_range(keys[date]) and _is_one_range(keys[time]):
                level = keys[date].attribute.level
                found.append((level, _combined_range(keys.pop(date), keys.pop(time))))
    found += [(key.attribute.level, _condition(key, query.fuzzy)) for key in keys.values()]
    return found


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


def _exists(table: Any, condition: Any) -> Condition:
    inner = table.select().with_only_columns(literal(1)).where(condition)
    outer = [other for other in TABLES.values() if other is not table]
    return inner.correlate(*outer).exists()


def _condition(key: Key, fuzzy: bool) -> Condition:
    attribute = key.attribute
    if attribute.origin == "computed":
        return _computed(key)
    column = TABLES[attribute.level].c[attribute.column]
    if key.matching == Matching.EMPTY:
        return column.is_(None)
    if key.matching == Matching.UIDS:
        return _any_of(column, key.values)
    if key.matching == Matching.RANGE:
        return or_(*(_range(column, attribute.vr, low, high) for low, high in _pairs(key.values)))
    if attribute.keyword == "PatientName":
        one = _fuzzy_patient_name if fuzzy else _patient_name
        return or_(*(one(value) for value in key.values))
    if attribute.vr == "PN":
        folded = TABLES[attribute.level].c[f"{attribute.column}_folded"]
        return or_(*(_person_name_among(folded, value) for value in key.values))
    if attribute.vr in INTEGER_VRS:
        return or_(*(_integer(column, attribute.vr, value) for value in key.values))
    if attribute.keyword in MULTI_VALUED:
        return or_(*(_among(column, value) for value in key.values))
    if not any(_has_wildcard(value) for value in key.values):
        return _any_of(column, key.values)
    return or_(*(_text(column, value) for value in key.values))


def _computed(key: Key) -> Condition:
    """Match what other rows say. Numbers of related entities are no matching keys (PS3.4 C.3.4)."""
    if key.attribute.keyword == "ModalitiesInStudy":
        if key.matching == Matching.EMPTY:
            wanted: Condition = _SERIES.c.modality.is_(None)
        else:
            wanted = or_(*(_text(_SERIES.c.modality, value) for value in key.values))
        in_study = _SERIES.c.study_pk == _STUDY.c.pk
        return _exists(_SERIES, in_study & wanted & visible(Level.SERIES))
    if key.attribute.keyword == "SOPClassesInStudy" and key.matching == Matching.UIDS:
        of_class = _INSTANCE.c.current & (_INSTANCE.c.series_pk == _SERIES.c.pk)
        of_class &= _any_of(_INSTANCE.c.sop_class_uid, key.values)
        return _exists(_SERIES, (_SERIES.c.study_pk == _STUDY.c.pk) & _exists(_INSTANCE, of_class))
    return true()


def _any_of(column: Any, values: tuple[str, ...]) -> Condition:
    condition: Condition = column == values[0] if len(values) == 1 else column.in_(values)
    return condition


def _integer(column: Any, vr: str, value: str) -> Condition:
    if _has_wildcard(value):
        return _text(cast(column, Text), value)
    number = stored_value(vr, value)
    return false() if number is None else column == number


def _patient_name(value: str) -> Condition:
    """Match one name. A lone group may be any of the three; several stand for themselves."""
    groups = [fold(group) for group in value.split("=")[: len(_PATIENT_NAMES)]]
    if len(groups) == 1:
        return or_(*(_person_name(column, groups[0]) for column in _PATIENT_NAMES))
    pairs = zip(_PATIENT_NAMES, groups, strict=False)
    return and_(true(), *(_person_name(column, group) for column, group in pairs if group))


def _fuzzy_patient_name(value: str) -> Condition:
    """Match when each word of `value` begins a word of the name, in any order and any group."""
    name: Any = literal("")
    for column in _PATIENT_NAMES:
        name = name + "^" + func.replace(func.coalesce(column, ""), " ", "^")
    words = fold(value).replace("=", "^").replace(",", "^").replace(" ", "^").split("^")
    tests = (name.like(f"%^{_like(word.rstrip('*'))}%", escape=_ESCAPE) for word in words if word.strip("*"))
    return and_(true(), *tests)


def _person_name(column: Any, group: str) -> Condition:
    """Match a folded group; components that it leaves out at the end may be anything."""
    while group.endswith("^*"):
        group = group[:-2].rstrip("^ ")
    if group in ("", "*"):
        return column.is_not(None)
    if not _has_wildcard(group):
        # "^" + 1 is "_": all names that go on with further components
        return or_(column == group, (column >= group + "^") & (column < group + "_"))
    if group.endswith("*"):
        return _text(column, group)
    return or_(_text(column, group), _text(column, group + "^*"))


def _person_name_among(column: Any, value: str) -> Condition:
    """Match one group of any of several names in a column that holds them folded, joined."""
    wrapped = literal(_SEPARATOR) + column + _SEPARATOR
    tests = []
    for group in (fold(group) for group in value.split("=")):
        while group.endswith("^*"):
            group = group[:-2].rstrip("^ ")
        if group in ("", "*"):
            continue
        begin = f"%{_SEPARATOR}{_like(group)}"
        tests.append(
            or_(
                wrapped.like(begin + f"{_SEPARATOR}%", escape=_ESCAPE),
                wrapped.like(begin + "^%", escape=_ESCAPE),
            )
        )
    return and_(column.is_not(None), *tests)


def _among(column: Any, value: str) -> Condition:
    """Match any of several values in a column that holds them joined."""
    wrapped = literal(_SEPARATOR) + column + _SEPARATOR
    condition: Condition = wrapped.like(f"%{_SEPARATOR}{_like(value)}{_SEPARATOR}%", escape=_ESCAPE)
    return condition


def _text(column: Any, value: str) -> Condition:
    """Match a single value, or a wildcard pattern by the range of its literal beginning."""
    if not _has_wildcard(value):
        condition: Condition = column == value
        return condition
    prefix = value[: min(value.find(c) for c in "*?" if c in value)]
    tests = []
    if prefix:
        tests.append(column >= prefix)
        after = _after(prefix)
        if after is not None:
            tests.append(column < after)
    if value[len(prefix) :].strip("*") or not prefix or after is None:
        tests.append(column.like(_like(value), escape=_ESCAPE))
    return and_(*tests)


def _has_wildcard(value: str) -> bool:
    return "*" in value or "?" in value


def _like(value: str) -> str:
    """Return a DICOM pattern as one for LIKE."""
    for special in (_ESCAPE, "%", "_"):
        value = value.replace(special, _ESCAPE + special)
    return value.replace("*", "%").replace("?", "_")


def _after(prefix: str) -> str | None:
    """Return the first text that sorts behind everything that begins with `prefix`."""
    code = ord(prefix[-1]) + 1
    if 0xD800 <= code <= 0xDFFF:  # surrogates are no characters
        code = 0xE000
    return prefix[:-1] + chr(code) if code <= 0x10FFFF else None


def _range(column: Any, vr: str, low: str, high: str) -> Condition:
    """Match a range of dates or times whose ends and values may differ in precision.

    A value stands for the moment at which it begins, an upper end for all that it includes: 10:15 is
    within 10-1015, as is 10:15:30.
    """
    tests = [column.is_not(None)]
    if low:
        tests.append(column >= _shortest(vr, low))
    if high:
        tests.append(column < high + _AFTER_TIME)
    return and_(*tests)


def _shortest(vr: str, end: str) -> str:
    """Return a time without the zeros that change nothing: 10:00:00 begins when 10 begins."""
    if vr == "DA":
        return end
    whole, _point, fraction = end.partition(".")
    fraction = fraction.rstrip("0")
    if fraction:
        return f"{whole}.{fraction}"
    floor = 2 if vr == "TM" else 8  # the hour stays, and the date of a DT
    while len(whole) > floor and whole.endswith("00"):
        whole = whole[:-2]
    return whole


def _is_one_range(key: Key) -> bool:
    return key.matching == Matching.RANGE and len(key.values) == 2


def _combined_range(date: Key, time: Key) -> Condition:
    """Match a date and its time as one value: from the first time on the first date on."""
    date_column = TABLES[date.attribute.level].c[date.attribute.column]
    time_column = TABLES[time.attribute.level].c[time.attribute.column]
    (first_date, last_date), (first_time, last_time) = date.values, time.values
    tests = [_range(date_column, "DA", first_date, last_date)]
    if first_date and first_time:
        tests.append(or_(date_column > first_date, time_column >= _shortest("TM", first_time)))
    if last_date and last_time:
        tests.append(or_(date_column < last_date, time_column < last_time + _AFTER_TIME))
    return and_(*tests)


def _pairs(values: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    return zip(values[::2], values[1::2], strict=True)
