"""The blob readers of one retrieval, shared by the tasks that decode for it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dcmpress.storage.blobstore import FolderBlobStore
from dcmpress.storage.join import InstanceReader

Lend = Callable[[str], InstanceReader]
"""Blob name -> its reader, until the task ends."""


class BlobReaders:
    """The blob readers of one retrieval, lent to one task at a time: an index is parsed once per thread."""

    def __init__(self, blobs: FolderBlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._free: dict[str, list[InstanceReader]] = {}
        self._closed = False

    @contextmanager
    def lent(self) -> Iterator[Lend]:
        """Lend readers, each from the first call with its blob's name to the end of the context."""
        used: dict[str, InstanceReader] = {}

        def lend(name: str) -> InstanceReader:
            if name not in used:
                with self._lock:
                    free = self._free.get(name)
                    reader = free.pop() if free else None
                used[name] = reader or InstanceReader(self._blobs.path(name))
            return used[name]

        try:
            yield lend
        finally:
            with self._lock:
                # The next batch is of the same blob or of another; readers of earlier ones are done.
                done = [reader for name in self._free.keys() - used.keys() for reader in self._free.pop(name)]
                for name, reader in used.items():
                    reader.forget_segments()
                    (done if self._closed else self._free.setdefault(name, [])).append(reader)
            for reader in done:
                reader.close()

    def close(self) -> None:
        """Close all readers; one that is still lent when it comes back."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, {}
        for reader in [reader for readers in free.values() for reader in readers]:
            reader.close()
