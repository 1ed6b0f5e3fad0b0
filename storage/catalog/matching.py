"""Keys as tests (PS3.4 C.2.2.2): each a form, which `conditions` turns into SQL, and the values bound to it.

The form says everything about a test but its values, so statements are made and compiled once for each form and
not for each query. Forms take the shape that lets an ordinary index serve them on SQLite and PostgreSQL alike:
a prefix is a range of text, and a range of dates is a range of text. The columns compare by code point.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from dcmpress.storage.catalog.attributes import INTEGER_VRS, MULTI_VALUED, Attribute, Level
from dcmpress.storage.catalog.person_name import fold
from dcmpress.storage.catalog.query import Key, Matching, Query
from dcmpress.storage.catalog.values import stored_value

Place = tuple[Any, ...]
"""A column: its level and its name, and "text" behind them where it is compared as text."""

Form = tuple[Any, ...]
"""The name of an operation, then its operands: places, forms, numbers. Hashable; see `conditions.OPERATIONS`."""


class Test(NamedTuple):
    """One test of an entity."""

    form: Form
    values: tuple[Any, ...] = ()
    """In the order in which the form takes them."""


_ALWAYS = Test(("always",))
_NEVER = Test(("never",))

_PATIENT_NAMES: tuple[Place, ...] = (
    (Level.PATIENT, "patient_name_alphabetic"),
    (Level.PATIENT, "patient_name_ideographic"),
    (Level.PATIENT, "patient_name_phonetic"),
)
_MODALITY: Place = (Level.SERIES, "modality")
_SOP_CLASS: Place = (Level.IMAGE, "sop_class_uid")
SEPARATOR = "\\"
"""Between the values of a column that holds several."""
ESCAPE = "~"
"""Of the wildcards of LIKE."""
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


def query_tests(query: Query) -> list[tuple[Level, Test]]:
    """Return the tests that a query makes, each with the level of the table that it is about."""
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
    found += [(key.attribute.level, _test(key, query.fuzzy)) for key in keys.values()]
    return found


def _any(tests: Iterable[Test]) -> Test:
    return _joined("or", list(tests))


def _all(tests: Iterable[Test]) -> Test:
    return _joined("and", list(tests))


def _joined(operation: str, tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    values = tuple(value for test in tests for value in test.values)
    return Test((operation, *(test.form for test in tests)), values)


def _place(attribute: Attribute) -> Place:
    return attribute.level, attribute.column


def _test(key: Key, fuzzy: bool) -> Test:
    attribute = key.attribute
    if attribute.origin == "computed":
        return _computed(key)
    place = _place(attribute)
    if key.matching == Matching.EMPTY:
        return Test(("null", place))
    if key.matching == Matching.UIDS:
        return _one_of(place, key.values)
    if key.matching == Matching.RANGE:
        return _any(_range(place, attribute.vr, low, high) for low, high in _pairs(key.values))
    if attribute.keyword == "PatientName":
        one = _fuzzy_patient_name if fuzzy else _patient_name
        return _any(one(value) for value in key.values)
    if attribute.vr == "PN":
        folded = (attribute.level, f"{attribute.column}_folded")
        return _any(_person_name_among(folded, value) for value in key.values)
    if attribute.vr in INTEGER_VRS:
        return _any(_integer(place, attribute.vr, value) for value in key.values)
    if attribute.keyword in MULTI_VALUED:
        return _any(_among(place, value) for value in key.values)
    if not any(_has_wildcard(value) for value in key.values):
        return _one_of(place, key.values)
    return _any(_text(place, value) for value in key.values)


def _computed(key: Key) -> Test:
    """Match what other rows say. Numbers of related entities are no matching keys (PS3.4 C.3.4)."""
    if key.attribute.keyword == "ModalitiesInStudy":
        if key.matching == Matching.EMPTY:
            return Test(("series of study", ("null", _MODALITY)))
        wanted = _any(_text(_MODALITY, value) for value in key.values)
        return Test(("series of study", wanted.form), wanted.values)
    if key.attribute.keyword == "SOPClassesInStudy" and key.matching == Matching.UIDS:
        of_class = _one_of(_SOP_CLASS, key.values)
        return Test(("instance of study", of_class.form), of_class.values)
    return _ALWAYS


def _one_of(place: Place, values: tuple[Any, ...]) -> Test:
    if len(values) == 1:
        return Test(("=", place), values)
    return Test(("in", place, len(values)), values)


def _integer(place: Place, vr: str, value: str) -> Test:
    if _has_wildcard(value):
        return _text((*place, "text"), value)
    number = stored_value(vr, value)
    return _NEVER if number is None else Test(("=", place), (number,))


def _patient_name(value: str) -> Test:
    """Match one name. A lone group may be any of the three; several stand for themselves."""
    groups = [fold(group) for group in value.split("=")[: len(_PATIENT_NAMES)]]
    if len(groups) == 1:
        return _any(_person_name(place, groups[0]) for place in _PATIENT_NAMES)
    pairs = zip(_PATIENT_NAMES, groups, strict=False)
    return _all(_person_name(place, group) for place, group in pairs if group)


def _fuzzy_patient_name(value: str) -> Test:
    """Match when each word of `value` begins a word of the name, in any order and any group."""
    words = fold(value).replace("=", "^").replace(",", "^").replace(" ", "^").split("^")
    patterns = [f"%^{_like(word.rstrip('*'))}%" for word in words if word.strip("*")]
    return _all(Test(("words like", *_PATIENT_NAMES), (pattern,)) for pattern in patterns)


def _person_name(place: Place, group: str) -> Test:
    """Match a folded group; components that it leaves out at the end may be anything."""
    while group.endswith("^*"):
        group = group[:-2].rstrip("^ ")
    if group in ("", "*"):
        return Test(("not null", place))
    if not _has_wildcard(group):
        # "^" + 1 is "_": all names that go on with further components
        longer = Test(("and", (">=", place), ("<", place)), (group + "^", group + "_"))
        return _any([Test(("=", place), (group,)), longer])
    if group.endswith("*"):
        return _text(place, group)
    return _any([_text(place, group), _text(place, group + "^*")])


def _person_name_among(place: Place, value: str) -> Test:
    """Match one group of any of several names in a column that holds them folded, joined."""
    tests = [Test(("not null", place))]
    for group in (fold(group) for group in value.split("=")):
        while group.endswith("^*"):
            group = group[:-2].rstrip("^ ")
        if group in ("", "*"):
            continue
        begin = f"%{SEPARATOR}{_like(group)}"
        ends = (f"{begin}{SEPARATOR}%", f"{begin}^%")
        tests.append(Test(("or", ("among like", place), ("among like", place)), ends))
    return _all(tests)


def _among(place: Place, value: str) -> Test:
    """Match any of several values in a column that holds them joined."""
    return Test(("among like", place), (f"%{SEPARATOR}{_like(value)}{SEPARATOR}%",))


def _text(place: Place, value: str) -> Test:
    """Match a single value, or a wildcard pattern by the range of its literal beginning."""
    if not _has_wildcard(value):
        return Test(("=", place), (value,))
    prefix = value[: min(value.find(c) for c in "*?" if c in value)]
    tests = []
    if prefix:
        tests.append(Test((">=", place), (prefix,)))
        after = _after(prefix)
        if after is not None:
            tests.append(Test(("<", place), (after,)))
    if value[len(prefix) :].strip("*") or not prefix or after is None:
        tests.append(Test(("like", place), (_like(value),)))
    return _all(tests)


def _has_wildcard(value: str) -> bool:
    return "*" in value or "?" in value


def _like(value: str) -> str:
    """Return a DICOM pattern as one for LIKE."""
    for special in (ESCAPE, "%", "_"):
        value = value.replace(special, ESCAPE + special)
    return value.replace("*", "%").replace("?", "_")


def _after(prefix: str) -> str | None:
    """Return the first text that sorts behind everything that begins with `prefix`."""
    code = ord(prefix[-1]) + 1
    if 0xD800 <= code <= 0xDFFF:  # surrogates are no characters
        code = 0xE000
    return prefix[:-1] + chr(code) if code <= 0x10FFFF else None


def _range(place: Place, vr: str, low: str, high: str) -> Test:
    """Match a range of dates or times whose ends and values may differ in precision.

    A value stands for the moment at which it begins, an upper end for all that it includes: 10:15 is
    within 10-1015, as is 10:15:30.
    """
    tests = [Test(("not null", place))]
    if low:
        tests.append(Test((">=", place), (_shortest(vr, low),)))
    if high:
        tests.append(Test(("<", place), (high + _AFTER_TIME,)))
    return _all(tests)


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


def _combined_range(date: Key, time: Key) -> Test:
    """Match a date and its time as one value: from the first time on the first date on."""
    of_date, of_time = _place(date.attribute), _place(time.attribute)
    (first_date, last_date), (first_time, last_time) = date.values, time.values
    tests = [_range(of_date, "DA", first_date, last_date)]
    if first_date and first_time:
        values = (first_date, _shortest("TM", first_time))
        tests.append(Test(("or", (">", of_date), (">=", of_time)), values))
    if last_date and last_time:
        tests.append(Test(("or", ("<", of_date), ("<", of_time)), (last_date, last_time + _AFTER_TIME)))
    return _all(tests)


def _pairs(values: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    return zip(values[::2], values[1::2], strict=True)
