"""The Conformance Statement in the documents is what the code says."""

from dcmpress.cli.conformance import statement
from dcmpress.config import load
from tests.corpus_files import PROJECT


def test_the_document_has_not_drifted() -> None:
    """Write it anew by: dcmpress conformance --config config.yaml > docs/conformance.md"""
    assert (PROJECT / "docs" / "conformance.md").read_text() == statement(load(PROJECT / "config.yaml"))
