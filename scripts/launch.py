"""Starts the program on many hosts: SLURM, Kubernetes (JobSet) or a TPU VM. --dry_run prints what would be submitted.

    python scripts/launch.py slurm --nodes 4 --gpus 8 --dry_run -- --config ...
    python scripts/launch.py jobset --name prw --image REGISTRY/psdiff --nodes 4 --gpus 8 --claim data -- --config ...
    python scripts/launch.py tpu --name pod --zone us-central2-b -- --config ...

What follows -- goes to `psdiff_jax.main`, with --config.distributed=True behind it. The processes find each other by
what SLURM, Kubernetes or the TPU tells JAX. All hosts must reach --workdir and the prepared data under the same paths.
SIGTERM, which each of the three sends before it takes the hosts away, makes the run save; started again it goes on.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from psdiff_jax.errors import InputError

GRACE = 120  # seconds between SIGTERM and the end, for the checkpoint


class Submission(NamedTuple):
    """A command and what it reads from standard input."""

    command: list[str]
    text: str = ""


def program(arguments: Sequence[str], python: str = "python") -> list[str]:
    return [python, "-m", "psdiff_jax.main", *arguments, "--config.distributed=True"]


def slurm(given: argparse.Namespace) -> Submission:
    """A batch script. A process for each GPU, which is how JAX reads SLURM's variables, or for each node without."""
    tasks = max(given.gpus, 1)
    options = {
        "job-name": given.name,
        "nodes": given.nodes,
        "ntasks-per-node": tasks,
        "gpus-per-node": given.gpus or None,
        "cpus-per-task": given.cpus,
        "time": given.time,
        "partition": given.partition,
        "signal": f"TERM@{GRACE}",
        "open-mode": "append",
        "output": f"{given.name}-%j.log",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
    # srun's own tasks get the signal, not this shell. A task that ends otherwise takes the others with it.
    run = shlex.join(["srun", "--kill-on-bad-exit=1", *program(given.arguments, given.python)])
    text = "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", "set -euo pipefail", run, ""])
    return Submission(["sbatch"], text)


def jobset(given: argparse.Namespace) -> Submission:
    """A JobSet of one indexed Job, a pod for each node, and the right to read pods and jobs, by which JAX finds the
    first of them (the image needs `jax[k8s]`)."""
    account, group = f"{given.name}-jax", "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list"]},
             {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"]}]  # fmt: skip
    container: dict[str, Any] = {
        "name": "psdiff",
        "image": given.image,
        "command": program(given.arguments),
        "resources": {"limits": {given.resource: str(given.gpus)} if given.gpus else {}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if given.claim:
        container["volumeMounts"].append({"name": "data", "mountPath": given.mount})
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": given.claim}})
    pod = {
        "serviceAccountName": account,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "containers": [container],
        "volumes": volumes,
    }
    job = {
        "completionMode": "Indexed",
        "completions": given.nodes,
        "parallelism": given.nodes,
        "backoffLimit": 0,  # the JobSet starts all of them again, for none can go on alone
        "template": {"spec": pod},
    }
    kinds = [
        ("v1", "ServiceAccount", account, {}),
        (f"{group}/v1", "Role", account, {"rules": rules}),
        (f"{group}/v1", "RoleBinding", account, {
            "subjects": [{"kind": "ServiceAccount", "name": account}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": account},
        }),
        ("jobset.x-k8s.io/v1alpha2", "JobSet", given.name, {"spec": {
            "failurePolicy": {"maxRestarts": given.restarts},
            "replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}],
        }}),
    ]  # fmt: skip
    items = [
        {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **rest} for version, kind, name, rest in kinds
    ]
    return Submission(
        ["kubectl", "apply", "-f", "-"], json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2)
    )


def tpu(given: argparse.Namespace) -> Submission:
    """The program on every worker of a TPU VM, from the repository's folder on it."""
    inside = f"cd {shlex.quote(given.folder)} && {shlex.join(program(given.arguments, given.python))}"
    place = [given.name, f"--zone={given.zone}", *([f"--project={given.project}"] if given.project else [])]
    return Submission(["gcloud", "compute", "tpus", "tpu-vm", "ssh", *place, "--worker=all", f"--command={inside}"])


def parser() -> argparse.ArgumentParser:
    each = argparse.ArgumentParser(add_help=False)
    each.add_argument("--name", default="psdiff", help="of the job, or of the TPU VM")
    each.add_argument("--dry_run", action="store_true", help="print and submit nothing")
    each.add_argument("arguments", nargs="*", metavar="-- ARGUMENTS", help="of psdiff_jax.main")
    hosts = argparse.ArgumentParser(add_help=False)
    hosts.add_argument("--nodes", type=int, required=True)
    hosts.add_argument("--gpus", type=int, default=0, help="of each node")
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    where = made.add_subparsers(dest="where", required=True)

    on_slurm = where.add_parser("slurm", parents=[each, hosts])
    on_slurm.add_argument("--time", default="24:00:00")
    on_slurm.add_argument("--partition", default="")
    on_slurm.add_argument("--cpus", type=int, default=8, help="cores of each process")
    on_slurm.add_argument("--python", default="python", help="the environment's interpreter")
    on_slurm.set_defaults(make=slurm)

    on_kubernetes = where.add_parser("jobset", parents=[each, hosts])
    on_kubernetes.add_argument("--image", required=True, help="with this repository installed, and jax[k8s]")
    on_kubernetes.add_argument("--resource", default="nvidia.com/gpu", help="what --gpus counts")
    on_kubernetes.add_argument("--claim", default="", help="persistent volume claim that all pods can write to")
    on_kubernetes.add_argument("--mount", default="/data", help="where it is mounted")
    on_kubernetes.add_argument("--restarts", type=int, default=10, help="after failures and evictions")
    on_kubernetes.set_defaults(make=jobset)

    on_tpu = where.add_parser("tpu", parents=[each])
    on_tpu.add_argument("--zone", required=True)
    on_tpu.add_argument("--project", default="")
    on_tpu.add_argument("--folder", default="psdiff", help="of the repository on each worker")
    on_tpu.add_argument("--python", default="python3", help="the environment's interpreter")
    on_tpu.set_defaults(make=tpu)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    given = parser().parse_args(argv)
    if not any(argument.split("=")[0] == "--config" for argument in given.arguments):
        raise InputError("nothing to run: put the program's arguments behind --, as in `-- --config configs/prw.py`")
    if getattr(given, "nodes", 1) < 1 or getattr(given, "gpus", 0) < 0:
        raise InputError("--nodes must be 1 or more, --gpus 0 or more")
    command, text = given.make(given)
    if given.dry_run:
        print(f"# {shlex.join(command)}" if text else shlex.join(command))
        print(text, end="")
        return 0
    try:
        return subprocess.run(command, input=text, text=True).returncode
    except FileNotFoundError as error:
        raise InputError(f"{command[0]} is not installed here; --dry_run prints what it would be given") from error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
