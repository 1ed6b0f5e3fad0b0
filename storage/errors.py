"""What can go wrong in storage.

StorageError
├── DataSetError              the bytes of a data set
│   ├── MalformedError        cannot be read as a data set in its transfer syntax
│   └── MismatchError         SOP class or instance UID differ from what the request says
├── NoSpaceError              free space is under the watermark, or a write found the disk full
├── ConflictError             another data set with this SOP Instance UID is kept and may not be replaced
├── DamagedError              a checksum does not confirm what is stored
│   └── BlobFormatError       not a blob, or its structure is broken
├── MissingError              no such instance, blob or spool file
└── ConversionError           cannot be given out in any transfer syntax that the receiver accepts
"""


class StorageError(Exception):
    """Base of everything that storage raises on purpose."""


class DataSetError(StorageError):
    """Something is wrong with the bytes of a data set."""


class MalformedError(DataSetError):
    """The bytes cannot be read as a data set in their transfer syntax."""


class MismatchError(DataSetError):
    """The SOP Class or Instance UID in the data set differs from the request's."""


class NoSpaceError(StorageError):
    """Free disk space is under the watermark, or the disk filled while writing."""


class ConflictError(StorageError):
    """A different data set with this SOP Instance UID is kept, and the policy is to reject."""


class DamagedError(StorageError):
    """A checksum does not confirm the stored bytes: they are not given out."""


class BlobFormatError(DamagedError):
    """The file is not a blob, or its structure is broken."""


class MissingError(StorageError):
    """There is no such instance, blob or spool file."""


class ConversionError(StorageError):
    """The data set cannot be given out in any transfer syntax that the receiver accepts."""
