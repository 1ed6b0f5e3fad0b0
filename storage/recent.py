"""Data sets decoded lately, kept in memory for who asks next: a study that is fetched is usually fetched again."""

import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass

LARGEST_SHARE = 8
"""A data set larger than one part in so many of the whole is not kept."""


@dataclass
class _Kept:
    data: bytes
    crc: int
    """CRC-32, taken when SHA-256 had just confirmed the data."""
    retrieval: object


class RecentDataSets:
    """Data sets by their SHA-256, up to `capacity` bytes; the least recently used go first. For threads to share.

    What one retrieval has put in or used does not make room for more of the same retrieval: a series larger
    than the capacity would else push itself out, over and over, and never find anything.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        """Bytes kept."""
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self._kept

    def get(self, sha256: bytes, retrieval: object) -> bytes | None:
        """Return the data set with that SHA-256, or None. It has been compared with its CRC-32 just now."""
        with self._lock:
            kept = self._kept.get(sha256)
            if kept is None:
                return None
            kept.retrieval = retrieval
            self._kept.move_to_end(sha256)
        if zlib.crc32(kept.data) == kept.crc:
            return kept.data
        self._drop(sha256)
        return None

    def put(self, sha256: bytes, data: bytes, retrieval: object) -> None:
        """Keep a data set that has just been confirmed by its SHA-256, if there is room for it or room can be made."""
        if len(data) * LARGEST_SHARE > self.capacity or sha256 in self._kept:
            return
        kept = _Kept(data, zlib.crc32(data), retrieval)
        with self._lock:
            while self.size + len(data) > self.capacity:
                oldest = next(iter(self._kept))
                if self._kept[oldest].retrieval is retrieval:
                    return
                self.size -= len(self._kept.pop(oldest).data)
            if sha256 not in self._kept:
                self._kept[sha256] = kept
                self.size += len(data)

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()
            self.size = 0

    def _drop(self, sha256: bytes) -> None:
        with self._lock:
            kept = self._kept.pop(sha256, None)
            if kept is not None:
                self.size -= len(kept.data)


class Visits:
    """How often the places that were asked for last were asked for."""

    KEPT = 1024

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._lock = threading.Lock()

    def is_second(self, place: tuple[str, int]) -> bool:
        """Count a visit; tell whether it is the second one, or so long after that what was kept must have gone."""
        with self._lock:
            times = self._times.pop(place, 0) + 1
            self._times[place] = times
            if len(self._times) > self.KEPT:
                self._times.popitem(last=False)
            return times % 16 == 2
