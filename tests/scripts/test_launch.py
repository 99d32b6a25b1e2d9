"""What is submitted, with stand-ins for sbatch's srun, kubectl and gcloud."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from psdiff_jax.errors import InputError

from .loading import load_script

launch = load_script("launch")
GIVEN = ["--config", "configs/prw.py", "--config.data.root=/data/my PRW", "--workdir", "runs/prw"]
PROGRAM = ["-m", "psdiff_jax.main", *GIVEN, "--config.distributed=True"]


def stand_in(folder: Path, name: str, body: str) -> dict[str, str]:
    """An environment in which `name` is this shell script."""
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_slurm(tmp_path, capsys):
    options = ["--name", "prw", "--nodes", "4", "--gpus", "8", "--python", "/env/bin/python", "--dry_run"]
    assert launch.main(["slurm", *options, "--", *GIVEN]) == 0
    first, _, script = capsys.readouterr().out.partition("\n")
    assert first == "# sbatch" and script.startswith("#!/bin/bash\n#SBATCH ")
    asked = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert asked >= {"nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "signal=TERM@120", "requeue", "time=24:00:00"}
    assert not any(line.startswith("partition") for line in asked)
    environment = stand_in(tmp_path, "srun", 'printf "%s\\n" "$@"')
    said = subprocess.run(["bash"], input=script, env=environment, text=True, capture_output=True, check=True).stdout
    assert said.splitlines() == ["--kill-on-bad-exit=1", "/env/bin/python", *PROGRAM]
    failing = stand_in(tmp_path, "srun", "exit 143")  # the batch job ends as the program does
    assert subprocess.run(["bash"], input=script, env=failing, text=True).returncode == 143


def test_slurm_without_gpus_has_a_process_a_node(capsys):
    launch.main(["slurm", "--nodes", "2", "--partition", "cpu", "--dry_run", "--", *GIVEN])
    script = capsys.readouterr().out
    assert "ntasks-per-node=1\n" in script and "gpus" not in script and "partition=cpu\n" in script


def test_jobset_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PATH", stand_in(tmp_path, "kubectl", f'echo "$@" > {tmp_path}/said; cat >> {tmp_path}/said')["PATH"]
    )
    options = ["--name", "prw", "--image", "here/psdiff", "--nodes", "4", "--gpus", "8", "--claim", "disk"]
    assert launch.main(["jobset", *options, "--", *GIVEN]) == 0
    command, _, text = (tmp_path / "said").read_text().partition("\n")
    assert command == "apply -f -"
    items = {item["kind"]: item for item in json.loads(text)["items"]}
    assert set(items) == {"ServiceAccount", "Role", "RoleBinding", "JobSet"}
    job = items["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    # What JAX's cluster detection reads: an indexed job whose parallelism is the number of processes.
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", *PROGRAM] and container["image"] == "here/psdiff"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    account = items["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account == items["RoleBinding"]["subjects"][0]["name"]
    assert items["RoleBinding"]["roleRef"]["name"] == items["Role"]["metadata"]["name"]
    assert {kind for rule in items["Role"]["rules"] for kind in rule["resources"]} >= {"pods", "jobs"}


def test_tpu(tmp_path, capsys):
    options = ["--name", "pod", "--zone", "here-a", "--folder", "my psdiff", "--dry_run"]
    launch.main(["tpu", *options, "--", *GIVEN])
    *command, inside = shlex.split(capsys.readouterr().out)
    assert command[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh"] and "--worker=all" in command
    (tmp_path / "my psdiff").mkdir()
    environment = stand_in(tmp_path, "python3", 'pwd; printf "%s\\n" "$@"')
    said = subprocess.run(["bash", "-c", inside.removeprefix("--command=")], cwd=tmp_path, env=environment, text=True,
                          capture_output=True, check=True).stdout  # fmt: skip
    assert said.splitlines() == [str(tmp_path / "my psdiff"), *PROGRAM]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["slurm", "--nodes", "2"], "nothing to run: put the program's arguments behind --"),
        (["slurm", "--nodes", "0", "--", *GIVEN], "--nodes must be 1 or more"),
    ],
)
def test_wrong_arguments_are_one_line(given, message):
    with pytest.raises(InputError, match=message):
        launch.main(given)


def test_a_missing_program_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch is not installed here; --dry_run prints"):
        launch.main(["slurm", "--nodes", "2", "--", *GIVEN])
