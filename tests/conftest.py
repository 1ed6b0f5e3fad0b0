"""What all tests share."""

from tests.nodes import node

__all__ = ["node"]
