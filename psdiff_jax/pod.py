"""The processes of a pod watch each other.

    where = roll_call("host0:1234", count=4, index=2, limit=300)     all are there, or an InputError names who is not
    jax.distributed.initialize(where, 4, 2)

JAX's own service ends a process whose peers never come or die with a C++ stack trace, some of it after minutes. So
process 0 first listens at the coordinator's port itself. When all have come it leaves the port to JAX; the connections
stay, and each side sends a byte every few seconds. Who sees one close, or hears nothing for `SILENCE` seconds, prints a
line and ends. The other processes reach JAX's service through a relay of their own, which stays open when process 0
dies: the line comes first.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from psdiff_jax import relay
from psdiff_jax.errors import InputError

HELLO = b"psdiff-jax pod"
BEAT = 5.0  # seconds between two signs of life
SILENCE = 40.0  # seconds without one after which a process is taken for dead
RETRY = 0.2
ALIVE, DEAD, BYE = b"+", b"-", b"."  # DEAD is followed by the number of a process
NUMBER = struct.Struct("!i")

_watch: _Watch | None = None
_index: int | None = None
_relaying: subprocess.Popen | None = None  # ends when this process closes its pipe


def roll_call(address: str, count: int, index: int, limit: float) -> str:
    """Waits until all `count` processes are there, and watches them from then on. Returns the address for JAX.

    address: host:port of process 0. index: of this process. limit: seconds.

    Raises:
      InputError: some have not come in time; they are named.
    """
    global _watch, _index
    host, _, port = address.rpartition(":")
    end = time.monotonic() + limit
    peers = (
        _receive_all(int(port), count, end, limit) if index == 0 else {0: _report(address, index, count, end, limit)}
    )
    _watch, _index = _Watch(peers, count), index
    return address if index == 0 else _relay(host.strip("[]"), int(port))


def index() -> int | None:
    """The number of this process in its pod; None outside of one."""
    return _index


def leave() -> None:
    """Says that this process ends in order; whoever ends without a word is taken for dead."""
    if _watch is not None:
        _watch.stop()


def fail() -> None:
    """What a process does whose part has failed: the others hear of it at once, and it does not wait for them."""
    if _watch is not None:
        time.sleep(1.0)  # was it the death of another? Then the watch says so and ends this process
        atexit.register(_end_at_once)


def _end_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _receive_all(port: int, count: int, end: float, limit: float) -> dict[int, socket.socket]:
    """Process 0: the connections of all others."""
    dual = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=count
        )
    except OSError as error:
        raise InputError(
            f"config.distributed: port {port} of this host is taken ({error.strerror}); give the coordinator another"
        ) from error
    peers: dict[int, socket.socket] = {}
    with server:
        while len(peers) < count - 1 and (left := end - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                peer.settimeout(max(RETRY, min(5.0, left)))
                if _read(peer, len(HELLO)) == HELLO:
                    peers[NUMBER.unpack(_read(peer, NUMBER.size))[0]] = peer
    missing = [i for i in range(1, count) if i not in peers]
    for peer in peers.values():
        with contextlib.suppress(OSError):
            peer.sendall(NUMBER.pack(len(missing)) + b"".join(map(NUMBER.pack, missing)))
    if missing:
        raise _absent(missing, count, limit)
    return peers


def _report(address: str, index: int, count: int, end: float, limit: float) -> socket.socket:
    """Another process: its connection to process 0."""
    host, _, port = address.rpartition(":")
    while (left := end - time.monotonic()) > 0:
        try:
            peer = socket.create_connection((host.strip("[]"), int(port)), timeout=left)
            peer.sendall(HELLO + NUMBER.pack(index))
            peer.settimeout(left + 5)  # process 0 may have begun later
            missing = [NUMBER.unpack(_read(peer, 4))[0] for _ in range(NUMBER.unpack(_read(peer, 4))[0])]
        except OSError:
            time.sleep(RETRY)
            continue
        if missing:
            raise _absent(missing, count, limit)
        return peer
    raise InputError(
        f"config.distributed: process 0 of {count} cannot be reached at {address} within {limit:g} s; start it, or "
        "lengthen config.distributed_timeout"
    )


def _absent(missing: list[int], count: int, limit: float) -> InputError:
    names = ", ".join(map(str, missing))
    return InputError(
        f"config.distributed: process{'es' * (len(missing) > 1)} {names} of {count} did not come within {limit:g} s; "
        "see why on their hosts, or lengthen config.distributed_timeout"
    )


def _read(peer: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = peer.recv(size - len(found))
        if not more:
            raise ConnectionResetError
        found += more
    return found


class _Watch:
    """A thread that sends signs of life to `peers` and ends the process when one of them is dead."""

    def __init__(self, peers: dict[int, socket.socket], count: int):
        self._peers, self._count, self._stopped = peers, count, threading.Event()
        self._heard = dict.fromkeys(peers, time.monotonic())
        for peer in peers.values():
            peer.settimeout(BEAT)
        threading.Thread(target=self._run, name="pod-watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._send(BYE)

    def _run(self) -> None:
        spoken, awake = 0.0, time.monotonic()
        while not self._stopped.is_set() and self._peers:
            if time.monotonic() - spoken > BEAT:
                self._send(ALIVE)
                spoken = time.monotonic()
            readable, _, _ = select.select(list(self._peers.values()), [], [], BEAT / 5)
            before, awake = awake, time.monotonic()
            if awake - before > BEAT:  # this process stood still, perhaps its whole host: what it missed says nothing
                self._heard = dict.fromkeys(self._peers, awake)
            for index, peer in list(self._peers.items()):
                if peer in readable:
                    self._hear(index, peer)
                elif time.monotonic() - self._heard[index] > SILENCE:
                    self._dead(index, f"has not been heard of for {SILENCE:.0f} s")

    def _hear(self, index: int, peer: socket.socket) -> None:
        try:
            word = _read(peer, 1)
            if word == DEAD:
                self._dead(NUMBER.unpack(_read(peer, NUMBER.size))[0], "has ended")
        except OSError:
            self._dead(index, "has ended")
            return
        self._heard[index] = time.monotonic()
        if word == BYE:
            del self._peers[index]

    def _dead(self, index: int, what: str) -> None:
        if self._stopped.is_set():
            return
        self._peers.pop(index, None)
        self._send(DEAD + NUMBER.pack(index))
        print(
            f"error: process {index} of {self._count} {what}, so this one ends; see why on its host, then start all "
            "of them again: training goes on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        _end_at_once()

    def _send(self, word: bytes) -> None:
        for peer in list(self._peers.values()):
            with contextlib.suppress(OSError):
                peer.sendall(word)


def _relay(host: str, port: int) -> str:
    """An address of this host from which all goes to and from (host, port)."""
    global _relaying
    command = [sys.executable, "-I", "-S", str(Path(relay.__file__)), host, str(port)]
    _relaying = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert _relaying.stdout is not None
    return f"127.0.0.1:{int(_relaying.stdout.readline())}"
