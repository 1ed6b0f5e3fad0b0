"""The command line: options that all commands share, and exit codes.

0: done. 1: something that was checked does not hold. 2: a wrong call or configuration.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dcmpress import __version__
from dcmpress.config import Config, ConfigError, load
from dcmpress.storage.errors import StorageError

FAILED, MISUSED = 1, 2

app = typer.Typer(
    name="dcmpress",
    help="DICOM archive node: compresses every study losslessly on receipt, gives it back bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # or the lines of our docstrings are broken twice
    context_settings={"help_option_names": ["-h", "--help"]},
)

out = Console(highlight=False, soft_wrap=True)
"""Results, on standard output."""
notes = Console(stderr=True, highlight=False, soft_wrap=True)
"""Progress and problems, on standard error."""

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file. Default: ./config.yaml if there is one."),
]


def load_config(path: Path | None) -> Config:
    """Read the configuration; end with exit code 2 and one line per problem if it cannot be used."""
    try:
        return load(path)
    except ConfigError as error:
        for line in str(error).splitlines():
            notes.print(f"dcmpress: {line}", markup=False)
        raise typer.Exit(MISUSED) from None


def fail(message: str, code: int = FAILED) -> typer.Exit:
    """Print why a command ends; raise what is returned."""
    notes.print(f"dcmpress: {message}", markup=False)
    return typer.Exit(code)


@app.command()
def version() -> None:
    """Print the version."""
    out.print(__version__)


def with_commands() -> typer.Typer:
    """Return `app` with all its commands, which register themselves."""
    from dcmpress.cli import (  # noqa: F401
        archive_commands,
        bench,
        config_commands,
        conformance,
        estimate,
        find,
        recompress,
        serve,
        transfer_commands,
        view,
    )

    return app


def main() -> None:
    """Run the command."""
    try:
        with_commands()()
    except StorageError as error:
        notes.print(f"dcmpress: {error}", markup=False)
        sys.exit(FAILED)
    except BrokenPipeError:
        sys.exit(FAILED)
    except OSError as error:  # a folder instead of a file, no permission, a read-only or full disk
        if error.filename is None:
            raise
        notes.print(f"dcmpress: {error.filename}: {error.strerror}", markup=False)
        sys.exit(FAILED)
