"""Associations of our own to the destination of a C-MOVE: what is proposed on them, how many, and patience."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise, repeat

from dcmpress.scp import negotiation
from dcmpress.scp.association import Association
from dcmpress.scp.contexts import BLOB_FORMAT_1, BLOB_STORAGE
from dcmpress.scp.errors import NetworkError
from dcmpress.scp.log import logger
from dcmpress.scp.settings import Peer, ScpSettings
from dcmpress.scp.upper_layer import UpperLayer
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.targets import targets_for

MOST_CONTEXTS = 128 - 1
"""Presentation contexts of one association, as ids are the odd numbers of a byte (PS3.8 9.3.2.2); one is
for blobs."""

_BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds until a destination that does not answer is called again; the last from then on."""


class DestinationError(Exception):
    """The destination of a C-MOVE cannot be reached, or its association broke."""


Proposals = list[tuple[str, Sequence[str]]]
"""Presentation contexts: abstract syntax and transfer syntaxes."""


@dataclass
class Share:
    """Instances for one association, in reading order, and the contexts that they need."""

    proposals: Proposals
    waiting: deque[Located]
    broken: set[str] = field(default_factory=set)
    """SOP Instance UIDs at which an association broke: they are sent once more, and no oftener."""
    tried_blobs: set[str] = field(default_factory=set)
    """Names of blobs that were offered; what did not go well goes instance by instance."""
    delivered: int = 0
    """Instances that the destination has answered for, whatever the answer."""


def shares_of(located: Sequence[Located], n_associations: int, *, blobs: bool) -> list[Share]:
    """Cut instances into shares whose contexts fit one association, enough for `n_associations` at once.

    With `blobs` they propose our own context for blobs, which only another node accepts.
    """
    shares = []
    for part in _by_association(located):
        proposals = _proposals(part)
        if blobs and any(item.blob_name is not None for item in part):
            proposals.append((BLOB_STORAGE, (BLOB_FORMAT_1,)))
        n = max(1, min(n_associations, len(part)))
        cuts = [len(part) * k // n for k in range(n + 1)]
        shares += [Share(proposals, deque(part[start:end])) for start, end in pairwise(cuts)]
    return shares


def _proposals(located: Sequence[Located]) -> Proposals:
    """Propose a context for every pair of SOP class and stored syntax, and for what we can convert to.

    One context with several syntaxes would not do: the acceptor picks one of them for all.
    """
    stored = {(item.sop_class_uid, item.transfer_syntax_uid) for item in located}
    exact = [(sop_class, (syntax,)) for sop_class, syntax in sorted(stored)]
    classes = sorted({sop_class for sop_class, _ in stored})
    converted = [(sop_class, (syntax,)) for sop_class in classes for syntax in targets_for(sop_class)]
    return list(dict.fromkeys([*exact, *converted]))


def _by_association(located: Sequence[Located]) -> Iterator[list[Located]]:
    """Cut into parts whose presentation contexts fit one association; the order within is kept."""
    classes: dict[str, set[str]] = defaultdict(set)
    for item in located:
        classes[item.sop_class_uid].add(item.transfer_syntax_uid)
    part: set[str] = set()
    used = 0
    parts: list[set[str]] = [part]
    for sop_class, syntaxes in classes.items():
        needed = len(syntaxes.union(targets_for(sop_class)))
        if used + needed > MOST_CONTEXTS:
            part = set()
            parts.append(part)
            used = 0
        part.add(sop_class)
        used += needed
    for part in parts:
        yield [item for item in located if item.sop_class_uid in part]


class Destinations:
    """Counts the associations to each destination, over all C-MOVE requests that are served."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, destination: Peer, *, first: bool) -> bool:
        """Count one more association, and tell whether it may be opened.

        A request's first may always; a further one while the destination's limit is not reached.
        """
        with self._lock:
            if not first and self._open[destination.ae_title] >= destination.associations:
                return False
            self._open[destination.ae_title] += 1
            return True

    def give(self, destination: Peer) -> None:
        """Count one association less."""
        with self._lock:
            self._open[destination.ae_title] -= 1


def call(
    destination: Peer, proposals: Proposals, settings: ScpSettings, stop: threading.Event, patience: float
) -> Association:
    """Open an association with a destination; for `patience` seconds try again if it does not answer.

    What will not change by itself, a rejection that is permanent or a wrong certificate, is not tried again.

    Raises
    ------
    DestinationError
        If that fails, or `stop` is set meanwhile.
    """
    deadline = time.monotonic() + patience
    for pause in chain(_BACK_OFF, repeat(_BACK_OFF[-1])):
        try:
            return _call_once(destination, proposals, settings)
        except NetworkError as error:
            left = deadline - time.monotonic()
            if not error.transient or left <= 0:
                raise DestinationError(str(error)) from error
            pause = min(pause, left)
            logger.warning(
                "destination does not answer",
                destination=destination.ae_title,
                problem=str(error),
                again_in=round(pause, 1),
            )
            if stop.wait(pause):
                raise DestinationError(str(error)) from error
    raise AssertionError("repeat() does not end")


def _call_once(destination: Peer, proposals: Proposals, settings: ScpSettings) -> Association:
    connected = negotiation.connect(destination, settings.association_timeout, settings.tls_files)
    layer = UpperLayer(connected, settings.pdu_timeout)
    try:
        negotiated = negotiation.request(
            layer,
            settings.ae_title,
            destination.ae_title,
            proposals,
            settings.max_pdu,
            settings.association_timeout,
        )
    except NetworkError:
        layer.close()
        raise
    return Association(layer, negotiated, destination.host, settings.response_timeout)
