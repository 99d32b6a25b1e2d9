"""Processes that train together, as the hosts of a pod do. As a program: one of them, with the tiny experiment."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax


def run_pod(
    module: str, *arguments: str, count: int = 2, devices: int = 1, timeout: int = 100
) -> list[tuple[int, str]]:
    """Runs `-m module PORT COUNT INDEX ARGUMENTS` as `count` processes: (return code, stdout and stderr) of each."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen([sys.executable, "-m", module, str(port), str(count), str(i), *arguments], env=environment,
                         cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(count)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def join_pod(port: str, count: str, index: str) -> int:
    """What a process of `run_pod` begins with. Returns its index."""
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index), heartbeat_timeout_seconds=20)
    return int(index)


def main(prepared: str, training: str, finished: str, cache: str) -> None:
    """Trains in one folder, and evaluates in another that holds a finished run."""
    from psdiff_jax import experiment  # here, for the processes of other modules need none of it

    from .tiny import tiny_config

    jax.config.update("jax_compilation_cache_dir", cache)
    config = tiny_config(Path(prepared))
    experiment.run(config, Path(training), "train")
    experiment.run(config, Path(finished), "evaluate")


if __name__ == "__main__":
    join_pod(*sys.argv[1:4])
    main(*sys.argv[4:])
