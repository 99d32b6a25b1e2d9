"""Checkpoints that are whole or are not used: orbax's CheckpointManager, with a hash for every leaf.

    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(step, state, data_state)                 writes in the background
    restored = checkpoints.restore_latest(state)              (state, data_state), or None where there is none

orbax finishes a step's folder by renaming it, so that a killed save is never taken for a checkpoint. What happens to
the files later it does not notice: most flipped bits restore without an error. A manifest beside the arrays therefore
holds the SHA-256 of each leaf and of itself.

Leaves are stored whole, as host arrays named by their path (`params.backbone.conv1.kernel`), so that a checkpoint says
nothing about devices: it restores into the shardings of whatever template is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from psdiff_jax import parallel
from psdiff_jax.errors import InputError
from psdiff_jax.files import why_not_written


class DamagedError(Exception):
    """A checkpoint that cannot be read, or reads other than it was written. The message names the leaf."""


class Checkpoints:
    """The checkpoints of one training, the newest `keep` of them, in `folder/<step>`."""

    def __init__(self, folder: str | Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self.folder = Path(folder).resolve()
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("arrays", "manifest"))
        self._manager.reached_preemption = lambda step: False  # `training.loop` asks, and the service counts who does

    def save(self, step: int, state: Any, data_state: Mapping[str, Any] | None = None) -> None:
        """Saves `state` as `step`, unless that step is there already. All processes must call this together.

        Returns when `state` is copied: it may be given up at once. `wait` ends when it is on the disk.

        Args:
          state: a tree of arrays and typed random keys.
          data_state: what JSON can hold; `restore_latest` hands it back.
        """
        if step in self._manager.all_steps():
            return
        # A copy: on CPUs NumPy would share the memory that the next step writes to.
        arrays = {name: np.array(parallel.fetch(_data(leaf))) for name, leaf in named_leaves(state)}
        kinds = {name: str(leaf.dtype) for name, leaf in named_leaves(state)}
        leaves = {name: {"shape": list(arrays[name].shape), "dtype": kinds[name], "sha256": digest}
                  for name, digest in hashes(arrays).items()}  # fmt: skip
        manifest = {"leaves": leaves, "data_state": dict(data_state or {})}
        stored = {name: array for name, array in arrays.items() if array.size}  # orbax refuses empty arrays
        args = self._ocp.args
        composite = args.Composite(
            arrays=args.PyTreeSave(stored), manifest=args.JsonSave({**manifest, "sha256": _digest_json(manifest)})
        )
        with self._writing():
            self._manager.save(int(step), args=composite)

    def restore_latest(self, template: Any) -> tuple[Any, dict[str, Any]] | None:
        """(state, data_state) of the newest whole checkpoint, or None where there are none.

        A damaged one is named on stderr, passed over, and set aside as `<step>.damaged`.

        Args:
          template: a state of this run, or the shapes and shardings of one (`jax.ShapeDtypeStruct`; random keys must be
            keys); the result has its structure and its shardings.

        Raises:
          InputError: the checkpoint is of another model than the template, or none is whole.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for i, step in enumerate(steps):
            found = self._read_agreed(step, template)
            if found is not None:
                if i:
                    self._set_aside(steps[:i])
                return found
        if steps:
            raise InputError(
                f"{self.folder}: none of the checkpoints ({', '.join(map(str, steps))}) is whole: "
                "delete the folder to train from the start"
            )
        return None

    def latest_step(self) -> int | None:
        """The newest step there is, whole or not."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Blocks until everything saved is on the disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background work."""
        with self._writing():
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """InputError for a disk that is full or cannot be written to, of this save or of the one in the background."""
        try:
            yield
        except Exception as error:
            reason = why_not_written(error)
            if reason is None:
                raise
            raise InputError(
                f"{self.folder}: a checkpoint cannot be written ({reason}); make room and run the same command again, "
                "it goes on from the checkpoint before"
            ) from error

    def _read_agreed(self, step: int, template: Any) -> tuple[Any, dict[str, Any]] | None:
        """Reads a step; None, loudly, where it is damaged, on all processes if on any."""
        try:
            manifest = self._read_manifest(step)
            self._check_matches(step, manifest["leaves"], template)
            arrays = self._read_arrays(step, manifest["leaves"])
            damage = None
        except DamagedError as error:
            damage = error
        if not parallel.all_agree(damage is None):
            print(f"checkpoint {self.folder / str(step)} is damaged: {damage or 'as another process reads it'}; "
                  "using the one before", file=sys.stderr, flush=True)  # fmt: skip
            return None
        return _fill(template, arrays), manifest["data_state"]

    def _read_manifest(self, step: int) -> dict[str, Any]:
        args = self._ocp.args
        try:
            restored: Any = self._manager.restore(step, args=args.Composite(manifest=args.JsonRestore()))
            manifest = dict(restored.manifest)
            said = manifest.pop("sha256")
        except Exception as error:
            raise DamagedError(f"its manifest cannot be read ({_first_line(error)})") from error
        if said != _digest_json(manifest):
            raise DamagedError("its manifest is not what was written")
        return manifest

    def _read_arrays(self, step: int, leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
        empty = {name: np.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in leaves.items() if 0 in leaf["shape"]}
        stored = [name for name in leaves if name not in empty]
        try:
            arrays = self._restore(step, stored)
        except Exception as error:
            name = self._unreadable(step, stored)
            raise DamagedError(f"leaf {name} cannot be read ({_first_line(error)})") from error
        for name, digest in hashes(arrays).items():
            if digest != leaves[name]["sha256"]:
                raise DamagedError(f"leaf {name} is not what was written")
        return arrays | empty

    def _restore(self, step: int, names: Iterable[str]) -> dict[str, np.ndarray]:
        item = dict.fromkeys(names, 0)
        how = self._ocp.RestoreArgs(restore_type=np.ndarray)
        args = self._ocp.args
        arrays = args.PyTreeRestore(item=item, restore_args=dict.fromkeys(item, how), partial_restore=True)
        restored: Any = self._manager.restore(step, args=args.Composite(arrays=arrays))
        return dict(restored.arrays)

    def _unreadable(self, step: int, names: Iterable[str]) -> str:
        """The first leaf that cannot be read by itself."""
        for name in names:
            try:
                self._restore(step, [name])
            except Exception:
                return name
        return "(unknown)"

    def _check_matches(self, step: int, leaves: Mapping[str, Any], template: Any) -> None:
        wanted = {name: (tuple(_data(leaf).shape), str(leaf.dtype)) for name, leaf in named_leaves(template)}
        stored = {name: (tuple(leaf["shape"]), leaf["dtype"]) for name, leaf in leaves.items()}
        for name in [*wanted, *stored]:
            if wanted.get(name) != stored.get(name):
                raise InputError(
                    f"{self.folder / str(step)}: leaf {name} is {_describe(stored.get(name))} in the checkpoint but "
                    f"{_describe(wanted.get(name))} in this run: use the config it was saved with, or another --workdir"
                )

    def _set_aside(self, steps: Iterable[int]) -> None:
        """Moves damaged steps out of the way: orbax would never save a step again that it has, nor an earlier one."""
        for step in steps:
            if parallel.is_main_process():
                aside = self.folder / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(self.folder / str(step), aside)
        parallel.all_agree(True)  # the others look only after the first process has moved
        self._manager.reload()


def newest_step(folder: Path) -> int:
    """The newest step in a folder of checkpoints, damaged or not; 0 = there is none."""
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)


def newest_hashes(folder: Path) -> tuple[int, dict[str, str]] | None:
    """(the newest step, the SHA-256 of its leaves as they were written), without orbax; None if it cannot be read."""
    step = newest_step(folder)
    try:
        manifest = json.loads((folder / str(step) / "manifest" / "metadata").read_bytes())
        if manifest.pop("sha256") != _digest_json(manifest):
            return None
        return step, {name: leaf["sha256"] for name, leaf in manifest["leaves"].items()}
    except (OSError, ValueError, KeyError):
        return None


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths, joined by dots; None is no leaf."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(_name(path), leaf) for path, leaf in paths]


def _name(path: tuple) -> str:
    # NNX variables show up as a last step, which is no part of the parameter's name.
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if parallel.is_key(leaf) else leaf


def _fill(template: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The template with the values of `arrays`."""

    def place(path: tuple, leaf: Any) -> Any:
        key: Any = leaf
        value = arrays[_name(path)]
        if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            return value
        placed = parallel.put(value, _data(leaf).sharding)
        return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(key)) if parallel.is_key(leaf) else placed

    return jax.tree_util.tree_map_with_path(place, template)


def hashes(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The SHA-256 of each array."""

    def digest(array: np.ndarray) -> str:  # hashlib lets go of the interpreter lock
        return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(arrays, pool.map(digest, arrays.values()), strict=True))


def _digest_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _describe(leaf: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if leaf is None else f"{leaf[1]} {list(leaf[0])}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
