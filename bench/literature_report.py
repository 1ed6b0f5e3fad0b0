"""Tables of the literature's report: Markdown for reading, CSV for counting on."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Table:
    """One table of the report."""

    name: str
    """File name of the CSV, without ending."""
    title: str
    note: str
    columns: Sequence[str]
    rows: list[list[Any]] = field(default_factory=list)
    shown: int = 0
    """Rows that the Markdown has; 0: all. The CSV has all."""
    formats: dict[str, str] = field(default_factory=dict)
    """Column -> format specification, where 2 digits after the point are not right."""

    def markdown(self) -> str:
        """Return title, note and table."""
        rows = self.rows[: self.shown] if self.shown else self.rows
        lines = [f"### {self.title}", "", self.note, ""]
        lines.append("| " + " | ".join(self.columns) + " |")
        lines.append("|" + "---|" * len(self.columns))
        for row in rows:
            cells = [self._cell(column, value) for column, value in zip(self.columns, row, strict=True)]
            lines.append("| " + " | ".join(cells) + " |")
        if len(rows) < len(self.rows):
            lines += ["", f"{len(self.rows) - len(rows)} more rows are in `{self.name}.csv`."]
        return "\n".join(lines) + "\n"

    def write_csv(self, folder: Path) -> None:
        """Write `<name>.csv` into `folder`."""
        with (folder / f"{self.name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(self.rows)

    def _cell(self, column: str, value: Any) -> str:
        if isinstance(value, float):
            if math.isinf(value):
                return "exact"
            if math.isnan(value):
                return ""
            return f"{value:{self.formats.get(column, '.2f')}}"
        return str(value)
