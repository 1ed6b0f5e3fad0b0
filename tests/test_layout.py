"""The folders stand as the packaging needs them."""

import codecs as standard_codecs
import sysconfig
from pathlib import Path

import dcmpress
from tests.corpus_files import PROJECT


def test_rooms_are_links_into_the_package() -> None:
    for room in ("codecs", "scp", "storage"):
        link = PROJECT / "src" / "dcmpress" / room
        assert link.is_symlink(), f"{link} is no link: git needs core.symlinks=true"
        assert link.resolve() == PROJECT / room


def test_codecs_does_not_hide_pythons_own() -> None:
    assert not (PROJECT / "codecs" / "__init__.py").exists()
    assert Path(standard_codecs.__file__ or "").is_relative_to(sysconfig.get_paths()["stdlib"])


def test_versions_agree() -> None:
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert project["version"] == dcmpress.__version__
