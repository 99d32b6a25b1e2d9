"""Processes of a pod that do not come, or die. As a program: one of them, which sums for a while."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from psdiff_jax import parallel, pod
from psdiff_jax.errors import InputError

from .pod import LIMIT

pytestmark = pytest.mark.slow


@pytest.fixture
def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(port: int, count: int, index: int, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.test_pod", str(port), str(count), str(index), *arguments]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"})  # fmt: skip


def wait_for_sums(process: subprocess.Popen) -> None:
    assert any(line.startswith("sum") for line in process.stdout), process.stderr.read()


def test_who_does_not_come_is_named(port):
    """Of four processes 2 and 3 are missing; 0 and 1 both say so."""
    wanted, address = r"config.distributed: processes 2, 3 of 4 did not come within \S+ s; see why", f"127.0.0.1:{port}"
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(pod.roll_call, address, 4, 1, 60)
        with pytest.raises(InputError, match=wanted):
            pod.roll_call(address, 4, 0, 6)
        with pytest.raises(InputError, match=wanted):
            other.result()


def test_a_first_process_that_does_not_come_is_named(port):
    with pytest.raises(InputError, match=rf"process 0 of 2 cannot be reached at 127.0.0.1:{port} within 1 s; start it"):
        pod.roll_call(f"127.0.0.1:{port}", 2, 1, 1)


def test_strangers_at_the_port_are_no_process(port):
    """Who says something else, or nothing, is not counted and does no harm."""

    def knock() -> None:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"", pod.HELLO):
            with connected(port) as stranger:
                stranger.sendall(words)

    with ThreadPoolExecutor(1) as pool:
        knocks = pool.submit(knock)
        with pytest.raises(InputError, match="process 1 of 2 did not come within 4 s"):
            pod.roll_call(f"127.0.0.1:{port}", 2, 0, 4)
        knocks.result()


def connected(port: int) -> socket.socket:
    """A connection to a port of this host, as soon as it listens."""
    for _ in range(1000):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port))
        time.sleep(0.01)
    raise TimeoutError(f"nobody listens at port {port}")


def test_a_port_that_is_taken_is_named(port):
    with socket.create_server(("", port)), pytest.raises(InputError, match=f"port {port} of this host is taken"):
        pod.roll_call(f"127.0.0.1:{port}", 2, 0, 1)


@pytest.mark.parametrize(("dies", "how"), [(0, signal.SIGKILL), (2, signal.SIGKILL), (1, None)])
def test_a_death_ends_the_others_with_one_line(port, dies, how):
    """Killed, or ended by an error of its own: within seconds the others say who, and end."""
    processes = [start(port, 3, index, "3000", str(-1 if how else dies)) for index in range(3)]
    for process in processes:
        wait_for_sums(process)
    begin = time.monotonic()
    if how:
        processes[dies].send_signal(how)
    for index, process in enumerate(processes):
        _, errors = process.communicate(timeout=LIMIT)
        if index == dies:
            assert process.returncode == (-how if how else 1), errors
            continue
        (line,) = [line for line in errors.splitlines() if "error" in line.lower()]
        assert line.startswith(f"error: process {dies} of 3 has ended, so this one ends; see why on its host"), errors
        assert process.returncode == 1 and not re.search("Traceback|stack trace", errors), errors
    assert time.monotonic() - begin < 300  # of the 50 minutes that the others would work


def test_who_says_nothing_is_taken_for_dead(port):
    processes = [start(port, 2, index, "3000", "-1", "10") for index in range(2)]
    for process in processes:
        wait_for_sums(process)
    processes[1].send_signal(signal.SIGSTOP)
    _, errors = processes[0].communicate(timeout=LIMIT)
    processes[1].kill()
    processes[1].communicate()
    assert "error: process 1 of 2 has not been heard of for 10 s, so this one ends" in errors


def test_a_host_that_stood_still_goes_on(port):
    """As when a virtual machine is paused: who wakes first has heard nothing for long, and nobody is dead."""
    processes = [start(port, 2, index, "50", "-1", "10") for index in range(2)]
    for process in processes:
        wait_for_sums(process)
    for process in reversed(processes):
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)  # 0 hears what 1 has said before
    time.sleep(10)
    for process in processes:
        process.send_signal(signal.SIGCONT)
        time.sleep(2)
    for process in processes:
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0 and "error" not in errors, errors


def test_an_end_in_order_is_no_death(port):
    processes = [start(port, 2, index, "5") for index in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0 and "error" not in errors, errors


def main(port: str, count: str, index: str, steps: str, failing: str = "-1", silence: str = "40") -> None:
    """Sums over all processes, so that each waits for all. failing: the process that raises an error."""
    pod.SILENCE, pod.BEAT = float(silence), float(silence) / 8
    parallel.join(60, where=(f"127.0.0.1:{port}", int(count), int(index)))
    try:
        for step in range(int(steps)):
            parallel.gather_json(step)
            print(f"sum {step}", flush=True)
            if index == failing:
                raise InputError("a file is not there")
            time.sleep(0.1)
    except (Exception, KeyboardInterrupt):
        pod.fail()
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
