"""What can go wrong in the catalog.

CatalogError (a StorageError)
├── CatalogVersionError    the database was written by a newer version of this program
├── UnknownBlobError       no blob with this key in the state that the call needs
└── QueryError             a query that makes no sense: an unknown level, a wrong value
"""

from dcmpress.storage.errors import StorageError


class CatalogError(StorageError):
    """The catalog cannot do what was asked."""


class CatalogVersionError(CatalogError):
    """The database has a schema that this version of the program does not know."""


class UnknownBlobError(CatalogError):
    """There is no blob with this key in the state that the call needs."""


class QueryError(CatalogError):
    """The query makes no sense."""
