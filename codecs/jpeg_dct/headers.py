"""Headers of JPEG images with sequential DCT and Huffman coding (ITU-T T.81 annex B): baseline and extended."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.jpeg_markers import next_segment

_SOF0, _SOF1, _DHT, _SOS, _DQT, _DRI, _DNL = 0xC0, 0xC1, 0xC4, 0xDA, 0xDB, 0xDD, 0xDC
MOST_COMPONENTS = 4


@dataclass(frozen=True)
class Component:
    """A component of the frame header."""

    identifier: int
    across: int
    """Horizontal sampling factor, 1 to 4."""
    down: int
    table: int
    """Number of its quantization table."""


@dataclass(frozen=True)
class Frame:
    """What the frame header says."""

    precision: int
    """Bits of a sample: 8 or 12."""
    rows: int
    columns: int
    components: tuple[Component, ...]

    def padded_blocks(self, k: int) -> tuple[int, int]:
        """Return the blocks of component k, down and across, with those that fill up the last MCUs (A.2.4)."""
        most_down = max(c.down for c in self.components)
        most_across = max(c.across for c in self.components)
        component = self.components[k]
        return (
            -(-self.rows // (8 * most_down)) * component.down,
            -(-self.columns // (8 * most_across)) * component.across,
        )

    def own_blocks(self, k: int) -> tuple[int, int]:
        """Return the blocks of component k, down and across, in a scan of its own (A.2.2)."""
        most_down = max(c.down for c in self.components)
        most_across = max(c.across for c in self.components)
        component = self.components[k]
        rows = -(-self.rows * component.down // most_down)
        columns = -(-self.columns * component.across // most_across)
        return -(-rows // 8), -(-columns // 8)


@dataclass(frozen=True)
class Scan:
    """What the header of a scan says, and what holds for it."""

    components: tuple[int, ...]
    """Numbers of components in the frame header."""
    dc_tables: tuple[bytes, ...]
    """Of each component: 16 counts of code words by length, and the symbols in their order."""
    ac_tables: tuple[bytes, ...]
    restart_interval: int
    """MCUs; 0: no restarts."""


class HeaderReader:
    """Reads headers, scan by scan; the tables of one scan hold for the next (B.2.4)."""

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.coded: set[int] = set()
        self._dc: dict[int, bytes] = {}
        self._ac: dict[int, bytes] = {}
        self._interval = 0
        self._steps: dict[int, NDArray[np.int64]] = {}

    @property
    def complete(self) -> bool:
        """Whether each component has had its scan."""
        return self.frame is not None and len(self.coded) == len(self.frame.components)

    def steps(self) -> NDArray[np.int64]:
        """Return the steps of quantization, shape (components, 64), in zigzag order; 1 where none is known."""
        assert self.frame is not None
        unknown = np.ones(64, np.int64)
        return np.stack([self._steps.get(c.table, unknown) for c in self.frame.components])

    def read(self, data: bytes, first: bool) -> tuple[Scan, int]:
        """Read the headers of a scan; return it, and their length.

        Parameters
        ----------
        data
            Begins with the headers: with SOI if `first`.

        Raises
        ------
        CorruptStreamError
            If there is no scan of this kind.
        """
        reader = ByteReader(data)
        if first and bytes(reader.take(2)) != b"\xff\xd8":
            raise CorruptStreamError("no JPEG image")
        while True:
            marker, segment = next_segment(reader)
            if marker == _DHT:
                self._read_tables(segment)
            elif marker == _DQT:
                self._read_steps(segment)
            elif marker == _DRI:
                self._interval = int.from_bytes(segment.take(2), "big")
            elif marker in (_SOF0, _SOF1) and self.frame is None:
                self.frame = _read_frame(segment)
            elif 0xC0 <= marker <= 0xCF or marker == _DNL:
                raise CorruptStreamError(f"marker {marker:02x}")
            elif marker == _SOS:
                return self._read_scan(segment), len(data) - reader.left

    def _read_tables(self, segment: ByteReader) -> None:
        while segment.left:
            number = segment.byte()
            counts = bytes(segment.take(16))
            tables = self._ac if number >> 4 else self._dc
            tables[number & 15] = counts + bytes(segment.take(sum(counts)))

    def _read_steps(self, segment: ByteReader) -> None:
        while segment.left:
            number = segment.byte()
            kind = np.dtype(">u2" if number >> 4 else np.uint8)
            steps = np.frombuffer(segment.take(64 * kind.itemsize), kind).astype(np.int64)
            self._steps[number & 15] = np.maximum(steps, 1)

    def _read_scan(self, segment: ByteReader) -> Scan:
        if self.frame is None:
            raise CorruptStreamError("a scan before the frame header")
        numbers = {c.identifier: k for k, c in enumerate(self.frame.components)}
        chosen, dc, ac = [], [], []
        for _ in range(segment.byte()):
            identifier, tables = segment.byte(), segment.byte()
            if identifier not in numbers or numbers[identifier] in self.coded:
                raise CorruptStreamError("a scan of no component, or of one that was coded")
            if tables >> 4 not in self._dc or tables & 15 not in self._ac:
                raise CorruptStreamError("a scan without its tables")
            self.coded.add(numbers[identifier])
            chosen.append(numbers[identifier])
            dc.append(self._dc[tables >> 4])
            ac.append(self._ac[tables & 15])
        if not chosen:
            raise CorruptStreamError("a scan of nothing")
        # Spectral selection is 0 to 63 in a sequential process; some encoders write other numbers there.
        return Scan(tuple(chosen), tuple(dc), tuple(ac), self._interval)


def _read_frame(segment: ByteReader) -> Frame:
    precision = segment.byte()
    rows, columns = (int.from_bytes(segment.take(2), "big") for _ in range(2))
    n = segment.byte()
    if precision not in (8, 12) or not rows or not columns or not 1 <= n <= MOST_COMPONENTS:
        raise CorruptStreamError("impossible frame header")
    components = []
    for _ in range(n):
        identifier, factors, table = (segment.byte() for _ in range(3))
        components.append(Component(identifier, factors >> 4, factors & 15, table))
    if any(not 1 <= c.across <= 4 or not 1 <= c.down <= 4 for c in components):
        raise CorruptStreamError("impossible sampling factors")
    if len({c.identifier for c in components}) != n:
        raise CorruptStreamError("two components of one name")
    return Frame(precision, rows, columns, tuple(components))
