"""PDUs on a socket, without an association."""

import socket
import time

import pytest

from dcmpress.scp.association import Association
from dcmpress.scp.negotiation import Negotiated
from dcmpress.scp.upper_layer import IS_COMMAND, UpperLayer


def received(connection: socket.socket) -> bytes:
    """Return what lies in the socket's buffer."""
    connection.setblocking(False)
    try:
        return connection.recv(1 << 20)
    except BlockingIOError:
        return b""


def test_a_peer_that_does_not_answer_a_release_is_not_waited_for_long() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        association = Association(UpperLayer(ours, 60), Negotiated("US", "THEM"), "", 60)
        started = time.monotonic()
        association.release()
        assert time.monotonic() - started < 30
        assert theirs.recv(100) == b"\x05\0\0\0\0\x04\0\0\0\0"


def test_what_is_held_back_goes_out_at_the_end_and_is_the_same() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        layer = UpperLayer(ours, 5)
        messages: list[tuple[int, list[bytes | memoryview]]]
        messages = [(IS_COMMAND, [b"command"]), (0, [b"data ", memoryview(b"set")]), (IS_COMMAND, [b"last"])]
        for control, pieces in messages:
            layer.send_data(3, control, pieces)
        expected = received(theirs)
        with layer.held_back():
            for control, pieces in messages:
                layer.send_data(3, control, pieces)
            assert received(theirs) == b""
        assert received(theirs) == expected
        layer.send_data(3, 0, [b"not held any more"])
        assert b"not held any more" in received(theirs)


def test_no_more_is_held_back_than_a_few_kilobytes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        layer = UpperLayer(ours, 5)
        with layer.held_back():
            layer.send_data(3, 0, [bytes(20_000)])
            assert len(received(theirs)) > 20_000
            layer.send_data(3, 0, [b"rest"])
            assert received(theirs) == b""
        assert b"rest" in received(theirs)


def test_small_messages_go_out_with_the_large_one_behind_them() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        layer = UpperLayer(ours, 5)
        layer.send_data(3, IS_COMMAND, [b"command"])
        layer.send_data(3, 0, [bytes(30_000)])
        expected = received(theirs)
        with layer.held_back():
            with layer.held_back():
                layer.send_data(3, IS_COMMAND, [b"command"])
            assert received(theirs) == b""
            layer.send_data(3, 0, [bytes(30_000)])
            assert received(theirs) == expected


def test_nothing_that_was_held_back_follows_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        layer = UpperLayer(ours, 5)

        def fail() -> None:
            with layer.held_back():
                layer.send_data(3, 0, [b"half an answer"])
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert received(theirs) == b""
