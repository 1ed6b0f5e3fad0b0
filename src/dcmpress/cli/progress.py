"""Progress bars for long work, on standard error and only on a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dcmpress.cli.app import notes

T = TypeVar("T")


def bar() -> Progress:
    """Return a progress display."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=notes,
        disable=not notes.is_terminal,
    )


def counted(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    """Yield `items` and show how many there have been."""
    with bar() as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task)
