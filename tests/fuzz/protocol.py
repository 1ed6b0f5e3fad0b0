"""Hostile conversations with a node in this process: `python -m tests.fuzz.protocol --minutes 60 --seed 1`.

Good conversations (association, C-ECHO, C-STORE, C-FIND, C-GET, C-MOVE, storage commitment, C-CANCEL) are
damaged in a dozen ways and held with the real listener, archive and catalog, without a network (`peer.py`).
What the node answers is compared with what PS3.7 and PS3.8 say it must (`model.py`): each response, and the
end of the association with its reason. Everything that was acknowledged must then be in the archive, byte for
byte, and nothing else. What fails is written to `tests/data/conversations`, and tried by the tests for ever after.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from dcmpress.scp.server import DicomServer
from dcmpress.scp.settings import ScpSettings
from dcmpress.storage.archive import Archive, ArchiveSettings
from tests.fuzz import conversations
from tests.fuzz.conversations import MR, STORE_MR, Script
from tests.fuzz.model import ABORT, BY_USER, LARGEST_PDU, RQ, Heard, expected, heard
from tests.fuzz.peer import End, ScriptedPeer
from tests.scp.wire import store_rq

CRASHERS = Path(__file__).resolve().parents[1] / "data" / "conversations"
TOO_LONG = 20
"""Seconds that one conversation may take on a machine under load; none waits for anything."""

_RENEWED = 2000
"""Conversations after which everything kept is compared, and a new archive begun."""


class TooSlowError(Exception):
    """A conversation does not end."""


@dataclass(frozen=True)
class Case:
    """One conversation."""

    script: tuple[bytes, ...]
    end: End = "close"
    takes: int | None = None

    def to_json(self) -> str:
        """Return it as text."""
        pieces = [piece.hex() for piece in self.script]
        return json.dumps({"end": self.end, "takes": self.takes, "script": pieces}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Case":
        """Read what `to_json` wrote."""
        read = json.loads(text)
        return cls(tuple(map(bytes.fromhex, read["script"])), read["end"], read["takes"])


class InProcessNode:
    """A listener's service and an archive, without the network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases = 0
        self.answers = self.stored = 0
        self.ends: Counter[str] = Counter()
        self._errors: list[dict[str, Any]] = []
        self._generation = 0
        self._open()

    def _open(self) -> None:
        self._generation += 1
        self.archive = Archive(ArchiveSettings(self.folder / str(self._generation)))
        self.server = DicomServer(self.archive, ScpSettings())
        self.acknowledged: dict[str, set[bytes]] = {}
        self.possible: set[bytes] = set()
        for uid, data in conversations.kept():
            store = conversations.message(STORE_MR, store_rq(MR, uid), data)
            self.hold(Case((conversations.request(plain=True), store, b"\5\0\0\0\0\4\0\0\0\0")))
            assert hashlib.sha256(data).digest() in self.acknowledged[uid]

    def renew(self) -> None:
        """Compare everything that was acknowledged with what is kept, and begin anew."""
        try:
            self.check_kept()
        finally:
            self.archive.close()
            shutil.rmtree(self.folder / str(self._generation))
            self._open()

    def check_kept(self) -> None:
        """Check that the archive has what it acknowledged, byte for byte, nothing else and nothing in part."""
        assert not [path for path in self.archive.spool.folder.glob("*.part") if path.stat().st_size]
        names = self.archive.catalog.settling.spool_names()
        assert set(self.archive.spool.names()) == set(names)
        found: set[tuple[bytes, str]] = set()
        for name in names:
            entry = self.archive.spool.entry(name)
            data = self.archive.spool.path(name).read_bytes()[entry.offset :]
            assert hashlib.sha256(data).digest() == entry.sha256
            found.add((entry.sha256, entry.meta.sop_instance_uid))
        for uid, digests in self.acknowledged.items():
            for digest in digests:
                assert (digest, uid) in found, f"{uid} was acknowledged and is not there"
        assert {digest for digest, _ in found} <= self.possible, "something is kept that nobody has sent"

    def hold(self, case: Case) -> Heard | None:
        """Hold one conversation; raise AssertionError, or whatever the node raises, if it goes wrong."""
        self.cases += 1
        peer = ScriptedPeer(case.script, case.end, case.takes)
        del self._errors[:]
        with _captured(self._errors), _deadline():
            connection = self.server._connections.open(peer)  # type: ignore[arg-type]
            self.server._serve_connection(connection, None, "127.0.0.1")
        assert not self._errors, self._errors
        assert peer.closed
        assert not self.server._connections
        sent = b"".join(case.script)
        if case.takes is not None:  # answers are missing; what was stored may stay
            self._note_possible(sent)
            return None
        answered = heard(bytes(peer.answers))
        self._judge(sent, answered)
        self.ends[answered.end if answered.opening == "accepted" else answered.opening or "no answer"] += 1
        return answered

    def _judge(self, sent: bytes, answered: Heard) -> None:
        self.answers += len(answered.answers)
        for uid, digest in compare(sent, answered):
            self.stored += 1
            self.acknowledged.setdefault(uid, set()).add(digest)
            self.possible.add(digest)
            versions = self.archive.catalog.versions(uid)
            assert digest in {v.sha256 for v in versions}, f"{uid} acknowledged, not in the catalog"
        self._note_possible(sent)

    def _note_possible(self, sent: bytes) -> None:
        """Note what may have been stored though the model does not follow that far."""
        if len(sent) < 6:
            return
        (length,) = struct.unpack_from(">I", sent, 2)
        model = expected(sent[6 + length :], range(256), past_queries=True)
        self.possible |= {answer.store[1] for answer in model.answers if answer.store}

    @property
    def open_files(self) -> int:
        """File descriptors of this process."""
        return len(list(Path("/proc/self/fd").iterdir()))


def compare(sent: bytes, answered: Heard) -> list[tuple[str, bytes]]:
    """Compare what a node has answered with what it must; return what it has acknowledged: (UID, SHA-256).

    Raises
    ------
    AssertionError
    """
    allowed = _openings(sent)
    assert answered.opening in allowed, f"opening {answered.opening!r}, not one of {allowed}"
    if answered.opening != "accepted":
        return []
    (length,) = struct.unpack_from(">I", sent, 2)
    model = expected(sent[6 + length :], answered.contexts)
    pairs = list(zip(model.answers, answered.answers, strict=False))
    for wanted, got in pairs:
        assert (wanted.context_id, wanted.field, wanted.message_id) == (
            got.context_id,
            got.field,
            got.message_id,
        ), f"{wanted} expected, {got} came"
    assert len(answered.answers) >= len(model.answers), f"missing: {model.answers[len(pairs) :]}"
    if model.exact:
        assert len(answered.answers) == len(model.answers), "more answers than requests"
        assert answered.requests == 0
        assert answered.end == model.end, f"ends with {answered.end}, not with {model.end}"
    assert answered.end != BY_USER
    return [wanted.store for wanted, got in pairs if wanted.store is not None and got.status == 0]


def _openings(sent: bytes) -> tuple[str, ...]:
    """Return how a node may answer the first PDU (PS3.8 table 9-10, state 2)."""
    if len(sent) < 6:
        return ("",)
    kind, length = struct.unpack_from(">BxI", sent)
    if not RQ <= kind <= ABORT or length > LARGEST_PDU:
        return (BY_USER,)
    if len(sent) < 6 + length or kind == ABORT:
        return ("",)
    if kind != RQ:
        return (BY_USER,)
    if sent[: 6 + length] in (conversations.request(), conversations.request(plain=True)):
        return ("accepted",)
    return ("accepted", "rejected", BY_USER)


@contextmanager
def _captured(errors: list[dict[str, Any]]) -> Iterator[None]:
    """Collect exceptions that the node logs: nothing that a peer sends may raise one that it does not expect."""
    before = structlog.get_config()

    def collect(_: Any, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event.get("exc_info"):
            errors.append({**event, "exc_info": traceback.format_exc()})
        raise structlog.DropEvent

    structlog.configure(processors=[collect], wrapper_class=structlog.make_filtering_bound_logger(40))
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _deadline() -> Iterator[None]:
    def too_slow(_: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"still talking after {TOO_LONG} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(TOO_LONG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def cases(chance: random.Random) -> Iterator[Case]:
    """Yield conversations without an end."""
    scripts = list(conversations.good().values())
    while True:
        script: Script = chance.choice(scripts)
        if chance.random() < 0.97:
            script = conversations.damaged(script, chance, scripts)
        if chance.random() < 0.3:
            script = conversations.recut(script, chance)
        takes = chance.choice((0, 100, 300, 400, 600, 1500)) if chance.random() < 0.03 else None
        end: End = chance.choice(("close", "close", "reset", "silence"))
        yield Case(tuple(script), end, takes)


def fuzz(node: InProcessNode, seed: int, seconds: float, most: int) -> int:
    """Hold damaged conversations for so long, or so many; return how many failed."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    failures = 0
    files: list[int] = []
    for number, case in enumerate(cases(chance), 1):
        try:
            node.hold(case)
            if number % _RENEWED == 0:
                node.renew()
                files.append(node.open_files)
        except (Exception, TooSlowError):
            failures += 1
            text = case.to_json()
            CRASHERS.mkdir(parents=True, exist_ok=True)
            path = CRASHERS / f"{zlib.crc32(text.encode()):08x}.json"
            path.write_text(text)
            print(f"{path}: {traceback.format_exc()}", flush=True)
        if number >= most or time.monotonic() > end:
            break
    node.check_kept()
    if files:
        print(f"open files: {min(files)} to {max(files)}")
    return failures


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def main() -> None:
    """Fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--most", type=int, default=1 << 62)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        node = InProcessNode(Path(folder))
        fuzz(node, 0, 60, 2000)  # fills caches, so that what grows afterwards is a leak
        before = resident()
        failures = fuzz(node, arguments.seed, 60 * arguments.minutes, arguments.most)
        print(
            f"{node.cases} conversations, seed {arguments.seed}: {failures} failures; {node.answers} answers, "
            f"{node.stored} stores acknowledged; memory {before:.0f} to {resident():.0f} MiB"
        )
        print(", ".join(f"{end}: {count}" for end, count in node.ends.most_common()))


if __name__ == "__main__":
    main()
