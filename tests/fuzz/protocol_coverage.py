"""Coverage-guided fuzzing of what reads bytes from the port, by libFuzzer through Atheris (`pip install atheris`).

    python -m tests.fuzz.protocol_coverage FOLDER --minutes 30

The first byte of an input chooses the decoder: command set, PDUs and PDVs, A-ASSOCIATE-RQ with its negotiation,
identifier of a query, first elements of a data set. The first two are compared with the model of the standard
(`model.py`): both must accept the same bytes and see the same in them. The others may raise what they are
documented to raise, and nothing else. Inputs that reach something new are kept in FOLDER; one that fails ends
the run, its bytes in `crash-*`.
"""

import argparse
import random
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import atheris

with atheris.instrument_imports(include=["dcmpress.scp", "dcmpress.storage.leading", "pynetdicom.pdu"]):
    from dcmpress.scp import negotiation
    from dcmpress.scp.commands import decode_command
    from dcmpress.scp.contexts import supported_context
    from dcmpress.scp.errors import NetworkError, ProtocolError
    from dcmpress.scp.identifier import IdentifierError, decode_identifier
    from dcmpress.scp.upper_layer import UpperLayer
    from dcmpress.storage.leading import read_leading

from dcmpress.storage.archive import WANTED
from tests.fuzz import conversations, model
from tests.fuzz.conversations import split_pdus
from tests.fuzz.peer import ScriptedPeer
from tests.scp.wire import EXPLICIT, IMPLICIT

Value = TypeVar("Value")

LONGEST = 8192
"""Bytes of an input."""
SYNTAXES = (IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.2")


def command_set(data: bytes) -> None:
    """Decode a command set by both; what one refuses the other must refuse."""
    mine, refused = _of(lambda: decode_command(data))
    theirs, violation = _of(lambda: model.decode(data))
    assert refused == violation
    if theirs is not None:
        assert mine is not None
        for number, value in theirs.items():
            assert not isinstance(value, int) or mine[number] == value


def pdus(data: bytes) -> None:
    """Read PDUs and their PDVs by both."""
    peer: Any = ScriptedPeer([data[k : k + 97] for k in range(0, len(data), 97)])
    layer = UpperLayer(peer, 5)
    wanted = model._values(data)
    ended: str | None = None
    while ended is None:
        values, ended = _of(lambda: layer.read_data(5))
        while values is not None:
            pdv, ended = _of(lambda: next(values, None))  # noqa: B023
            if pdv is None:
                break
            seen = (pdv.context_id, bool(pdv.control & 1), bool(pdv.control & 2), bytes(pdv.data))
            assert seen == next(wanted)
    assert _of(lambda: next(wanted)) == (None, ended)


def _of(read: Callable[[], Value]) -> tuple[Value | None, str | None]:
    """Return (value, None), or (None, why the association ends)."""
    try:
        return read(), None
    except (ProtocolError, model.ViolationError) as error:
        return None, f"abort {error.reason}"
    except (NetworkError, model.EndedError):
        return None, "over"


def association(data: bytes) -> None:
    """Negotiate; the answer must be well formed."""
    peer: Any = ScriptedPeer([struct.pack(">BxI", 1, len(data)) + data])
    layer = UpperLayer(peer, 5)
    try:
        request = negotiation.read_request(layer, 5)
        negotiated = negotiation.accept(layer, request, lambda uid: supported_context(uid, True), 131072)
    except NetworkError:
        return
    answered = model.heard(bytes(peer.answers))
    assert answered.opening == "accepted"
    assert set(answered.contexts) == set(negotiated.contexts)


def identifier(data: bytes) -> None:
    """Decode the identifier of a query."""
    try:
        decode_identifier(data[1:], SYNTAXES[data[0] % 3]).texts()
    except IdentifierError:
        pass


def leading(data: bytes) -> None:
    """Read the first elements of a data set, which never fails."""
    read_leading(data[1:], SYNTAXES[data[0] % 3], WANTED)


DECODERS: tuple[Callable[[bytes], None], ...] = (command_set, pdus, association, identifier, leading)


def seeds(folder: Path) -> None:
    """Write the pieces of good conversations, each for the decoder that it belongs to."""
    pieces: set[tuple[int, bytes]] = set()
    for script in conversations.good().values():
        for piece in script:
            pieces.add((1, piece))
            for one in split_pdus(piece):
                if one[0] == model.RQ:
                    pieces.add((2, one[6:]))
                elif one[0] == model.P_DATA and one[11] & 1:
                    pieces.add((0, one[12:]))
                elif one[0] == model.P_DATA:
                    pieces |= {(3, b"\1" + one[12:]), (4, b"\1" + one[12:])}
    for number, (decoder, piece) in enumerate(sorted(pieces)):
        if len(piece) < LONGEST:
            (folder / f"seed-{number}").write_bytes(bytes([decoder]) + piece)


def main() -> None:
    """Explore. Does not return."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, about each value that breaks the standard
    arguments.folder.mkdir(parents=True, exist_ok=True)
    seeds(arguments.folder)
    scripts = list(conversations.good().values())

    def one_input(data: bytes) -> None:
        if len(data) > 2:
            DECODERS[data[0] % len(DECODERS)](data[1:])

    def mutated(data: bytes, largest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if len(data) > 8 and chance.random() < 0.3:
            kind = data[0] % len(DECODERS)
            body = bytes(data[1:])
            if kind == 2:
                body = struct.pack(">BxI", 1, len(body)) + body
            script = conversations.damaged([body], chance, scripts)
            body = b"".join(script)
            return (bytes(data[:1]) + (body[6:] if kind == 2 else body))[:largest]
        return bytes(atheris.Mutate(data, largest))

    options = [
        f"-max_total_time={int(arguments.minutes * 60)}",
        f"-max_len={LONGEST}",
        f"-seed={arguments.seed}",
        f"-artifact_prefix={arguments.folder}/",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], str(arguments.folder), *options], one_input, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
