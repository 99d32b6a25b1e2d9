"""The mesh and every sharding: one process on one device, or many processes on many.

    mesh = make_mesh()                        axes ("data", "model") over all devices of all processes
    state = put_replicated(state, mesh)       the same values on every device
    state = put_sharded(state, mesh)          large arrays divided over "model" (fully sharded data parallel)
    batch = put_batch(batch, mesh)            rows spread over all devices; each process gives its own block of rows
    outputs = fetch(step(state, batch))       host NumPy, whole on every process

Under `jax.jit` the rest follows: XLA's partitioner adds the sums over devices, and no other module names a device.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from psdiff_jax.errors import InputError, one_line
from psdiff_jax.pod import leave, roll_call

AXES = ("data", "model")
T = TypeVar("T")
WEEK = 7 * 24 * 3600  # seconds
LEAST_SHARDED = 1024  # numbers of an array that is divided; to gather a smaller one takes longer than it saves


def setup_cpu_devices(count: int, *batch_sizes: int) -> None:
    """Splits the CPU into `count` devices, for data parallelism over cores; accelerators are left as they are.

    Must come before the first JAX computation; after it, and where JAX_NUM_CPU_DEVICES or XLA_FLAGS already say how
    many, nothing happens. Two devices on two cores train 1.5 times faster than one device with two threads.

    Args:
      count: 0 = one for each core this process may use, or fewer, so that all `batch_sizes` divide by it.
    """
    if count == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = max(n for n in range(1, cores + 1) if all(size % n == 0 for size in batch_sizes))
    said = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count > 1 and not said:
        try:
            jax.config.update("jax_num_cpu_devices", int(count))
        except RuntimeError:  # the backends have started: the number of devices is fixed by now
            pass


def join(limit: float = 300.0, trains: bool = True, where: tuple[str, int, int] | None = None) -> None:
    """Joins the other processes of a pod.

    Args:
      limit: seconds to wait for them. trains: SIGTERM asks for an agreed stop (`training.loop`), and acts at once else.
      where: (host:port of process 0, number of processes, index of this one), outside a cluster that JAX knows.

    Raises:
      InputError: it is not known who the others are, or some do not come in time.
    """
    try:
        from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize asks

        detected: Any = ClusterEnv.auto_detect_unset_distributed_params
        address, count, index, local = (*where, None) if where else detected(None, None, None, None, None, int(limit))
        if address is None or count is None or index is None:
            raise ValueError("no cluster was found")
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"config.distributed: who the other processes are is not known ({one_line(error).rstrip('.')}); start this "
            "under SLURM, Open MPI or Kubernetes or on TPU VMs, or leave config.distributed=False"
        ) from error
    jax.config.update("jax_enable_preemption_service", trains)
    for_jax = roll_call(address, count, index, limit) if count > 1 else address
    # The others wait for a process that works alone at the end, however long; should it die or hang, the watch ends
    # them. JAX's own heartbeats would also end processes that are well, once their host has stood still for a minute.
    jax.distributed.initialize(
        for_jax, count, index, local, heartbeat_timeout_seconds=WEEK, shutdown_timeout_seconds=WEEK
    )
    atexit.register(leave)  # runs before JAX's own, which waits for the others


def act_on_sigterm() -> None:
    """Gives SIGTERM back to Python's handler: in a pod that trains JAX's preemption service has taken it, from C++, and
    nobody asks that service once the training is over."""
    if jax.process_count() > 1 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def meet() -> None:
    """Waits for the other processes of a pod; call it once they have joined, before anything that takes time.

    Gloo, which carries sums between CPUs, connects at the first of them and waits 30 seconds for the last process, no
    longer. Here all arrive together; behind a compilation or the preparation of data they may not.
    """
    if jax.distributed.is_initialized():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("meet")


def make_mesh(model_axis: int = 1, local: bool = False) -> Mesh:
    """A mesh of all devices: ("data", "model"), `model_axis` of them in the second axis. `local`: of this process only.

    Raises:
      InputError: the devices do not divide by `model_axis`.
    """
    devices = jax.local_devices() if local else jax.devices()
    count = len(devices)
    if model_axis < 1 or count % model_axis:
        raise InputError(f"a model axis of {model_axis} does not divide the {count} devices: choose a divisor")
    return jax.make_mesh((count // model_axis, model_axis), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over all devices, the rest whole."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def divided(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The longest axis that divides by "model" over it, of equals the last; whole where none does, and where the array
    is small."""
    count = mesh.shape[AXES[1]]
    axes = [axis for axis, size in enumerate(shape) if size % count == 0]
    if count == 1 or not axes or np.prod(shape) < LEAST_SHARDED:
        return replicated(mesh)
    axis = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXES[1]))


def check_divides(batch_size: int, mesh: Mesh, key: str = "config.train.batch_size") -> None:
    """Raises InputError, naming `key`, unless a batch over all processes divides by the mesh's devices."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        raise InputError(f"{key} is {batch_size}, which does not divide by the {devices} devices: "
                         f"choose a multiple of {devices}")  # fmt: skip


def whole_batch(size: int) -> int:
    """`size` rounded up to a multiple of all devices, for batches whose size changes no result."""
    return -(-size // jax.device_count()) * jax.device_count()


def put_batch(batch: Any, mesh: Mesh | None) -> Any:
    """A tree of NumPy arrays [rows of this process, ...] -> global jax.Arrays [rows of all processes, ...].

    Rows are sharded over all devices. What is on the devices already stays. Without a mesh: onto the default device.
    """
    if mesh is None:
        return jax.device_put(batch)
    sharding = batch_sharding(mesh)

    def place(rows: Any) -> jax.Array:
        if _is_on(rows, mesh):
            return rows
        alone = sharding.is_fully_addressable  # the mesh is of this process only
        check_divides(len(rows) * (1 if alone else jax.process_count()), mesh, "the number of rows of a batch")
        if alone:
            return jax.device_put(rows, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

    return jax.tree.map(place, batch)


def put(value: np.ndarray, sharding: Sharding) -> jax.Array:
    """One whole host array, the same on every process, as a global array of the given sharding."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """A tree of arrays (typed random keys too), whole on every device; the same values must come on every process.

    Arrays that are sharded over this mesh already stay as they are. The results may share memory with `tree`: a step
    that gives up its argument gives up both.
    """

    def place(leaf: Any) -> jax.Array:
        if _is_on(leaf, mesh):
            return leaf
        if is_key(leaf):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if replicated(mesh).is_fully_addressable:
            return jax.device_put(leaf, replicated(mesh))
        return put(np.asarray(leaf), replicated(mesh))

    return jax.tree.map(place, tree)


def put_sharded(tree: Any, mesh: Mesh) -> Any:
    """As `put_replicated`, but arrays `divided` over the second axis of the mesh."""

    def place(leaf: Any) -> jax.Array:
        if is_key(leaf) or _is_on(leaf, mesh):
            return put_replicated(leaf, mesh)
        return put(np.asarray(leaf), divided(np.shape(leaf), mesh))

    return jax.tree.map(place, tree)


def gathered(tree: Any, mesh: Mesh) -> Any:
    """Inside `jit`: the arrays of `put_sharded`, whole on every device."""
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def scattered(tree: Any, mesh: Mesh) -> Any:
    """Inside `jit`: arrays placed as `put_sharded` places them; of sums over devices each computes its part."""
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda leaf: divided(leaf.shape, mesh), tree))


def shapes_replicated(tree: Any, mesh: Mesh) -> Any:
    """Shapes as `put_replicated` would place arrays: what a checkpoint can be restored into before there are values."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), tree)


def _is_on(leaf: Any, mesh: Mesh) -> bool:
    # Not merely on the same devices: a step's results name the mesh, and a step whose arguments do not is compiled for
    # these and then once more for its own results.
    return isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh == mesh


def fetch(tree: Any) -> Any:
    """Brings outputs to the host as NumPy, whole on every process, however they are sharded (no typed keys).

    Where arrays are spread over processes, all of them must call this together.
    """

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(whole, tree)))


def gather_json(value: Any) -> list[Any]:
    """A value of plain numbers, text, lists and dicts of every process, in their order, on every process."""
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.asarray(len(data))))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(np.asarray(rows), sizes, strict=True)]


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed random key (`jax.random.key`), whose numbers are `jax.random.key_data(leaf)`."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def place() -> tuple[int, int, int]:
    """(index of this process, number of processes, number of devices of all of them)."""
    return jax.process_index(), jax.process_count(), jax.device_count()


def is_main_process() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return jax.process_index() == 0


def first_alone(make: Callable[[], T]) -> T:
    """`make()`, on the first process before the others: what it leaves in files they need not make as well, also on a
    disk that hosts share without locks."""
    if is_main_process():
        made = make()
        meet()
        return made
    meet()
    return make()


def all_agree(ok: bool) -> bool:
    """Whether `ok` holds on every process; all of them must call this together."""
    if jax.process_count() == 1:
        return ok
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))
