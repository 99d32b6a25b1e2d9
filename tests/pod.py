"""Processes that train together, as the hosts of a pod do. As a program: one of them, with the tiny experiment."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from psdiff_jax import parallel

LIMIT = 1800  # seconds, against processes that hang; how slow a machine may be is no business of a test


def run_pod(module: str, *arguments: str, count: int = 2, devices: int = 1) -> list[tuple[int, str]]:
    """Runs `-m module PORT COUNT INDEX ARGUMENTS` as `count` processes: (return code, stdout and stderr) of each."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    end = time.monotonic() + LIMIT
    with tempfile.TemporaryDirectory() as folder:
        # Files, for a process whose pipe is full and not read yet would keep all the others waiting.
        outputs = [Path(folder) / str(i) for i in range(count)]
        processes = [
            subprocess.Popen([sys.executable, "-m", module, str(port), str(count), str(i), *arguments],
                             env=environment, cwd=Path(__file__).parents[1], stdout=output.open("w"),
                             stderr=subprocess.STDOUT)
            for i, output in enumerate(outputs)
        ]  # fmt: skip
        try:
            for process in processes:
                process.wait(timeout=max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            said = "\n".join(output.read_text(errors="replace")[-5000:] for output in outputs)
            raise AssertionError(f"after {LIMIT} s there are processes that have not ended:\n{said}") from error
        finally:
            for process in processes:
                process.kill()
        return [(process.returncode, output.read_text(errors="replace"))
                for process, output in zip(processes, outputs, strict=True)]  # fmt: skip


def join_pod(port: str, count: str, index: str) -> int:
    """What a process of `run_pod` begins with. Returns its index."""
    parallel.join(where=(f"127.0.0.1:{port}", int(count), int(index)))
    parallel.meet()
    return int(index)


def main(prepared: str, training: str, finished: str) -> None:
    """Trains in one folder, and evaluates in another that holds a finished run."""
    from psdiff_jax import experiment  # here, for the processes of other modules need none of it

    from .tiny import tiny_config

    config = tiny_config(Path(prepared))
    config.evaluate.steps = (2,)  # those that are exported: most of the time is compilation
    experiment.run(config, Path(training), "train")
    experiment.run(config, Path(finished), "evaluate")


if __name__ == "__main__":
    join_pod(*sys.argv[1:4])
    main(*sys.argv[4:])
