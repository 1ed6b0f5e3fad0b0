"""`dcmpress bench`: the figures that the documents quote, from a checkout of the project."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

import dcmpress
from dcmpress.cli.app import MISUSED, app, fail

bench_app = typer.Typer(no_args_is_help=True, help="Measure; needs a checkout of the project.")
app.add_typer(bench_app, name="bench")


@bench_app.command()
def literature(
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of DICOM files; default: DCMPRESS_CORPUS.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the report goes.")] = Path("report"),
) -> None:
    """Run the literature's codecs on real images beside today's, and write a report with plots."""
    arguments = ["-o", str(output)]
    if corpus is not None:
        arguments += ["--corpus", str(corpus)]
    _run("bench.literature", arguments)


def _run(module: str, arguments: list[str]) -> None:
    checkout = Path(dcmpress.__file__).resolve().parents[2]
    if not (checkout / "bench").is_dir():
        raise fail("the benchmarks come with a checkout of the project, not with the package", MISUSED)
    sys.path.insert(0, str(checkout))
    sys.argv = [module, *arguments]
    import_module(module).main()
