"""What all tests share."""

from tests.nodes import node
from tests.postgresql import new_catalog_url, postgresql

__all__ = ["new_catalog_url", "node", "postgresql"]
