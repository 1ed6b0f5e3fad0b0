"""The `dcmpress` command: wires the rooms together from the configuration."""

from dcmpress.cli.app import main

__all__ = ["main"]
