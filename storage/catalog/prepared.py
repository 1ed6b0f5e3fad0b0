"""Statements compiled once for a database and run with other values each time.

SQLAlchemy's own cache of compiled statements still needs the statement built anew for each run and a key made
of it, which takes ten times as long as SQLite needs to answer.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, bindparam
from sqlalchemy.engine import Dialect


class Prepared:
    """A statement as text of a driver, and what is bound where.

    Parameters
    ----------
    statement : a SELECT of integers and texts, which need no conversion, with parameters made by `parameter`
    dialect : of the database
    """

    def __init__(self, statement: Any, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.sql: str = compiled.string
        names: Sequence[str] = compiled.positiontup or list(compiled.params)
        self._positional = compiled.positiontup is not None
        self._sources = [
            (name, _number(name), None if _number(name) >= 0 else compiled.params[name]) for name in names
        ]

    def bound(self, values: Sequence[Any]) -> Any:
        """Return the parameters for the driver: values[k] for `parameter(k)`."""
        if self._positional:
            return tuple(values[k] if k >= 0 else constant for _, k, constant in self._sources)
        return {name: values[k] if k >= 0 else constant for name, k, constant in self._sources}


_PREFIX = "value_number_"


def parameter(number: int, type_: Any = None) -> BindParameter[Any]:
    """Return the place of a statement's value of that number, counted from 0."""
    return bindparam(f"{_PREFIX}{number}", type_=type_)


def _number(name: str) -> int:
    return int(name.removeprefix(_PREFIX)) if name.startswith(_PREFIX) else -1
