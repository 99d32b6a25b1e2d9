"""The kinds of teachers that `config.teacher.kind` can name.

    teacher = open_teacher(config.teacher, dataset, workdir / "teacher", seed=config.seed)
    targets = open_targets(config.teacher, dataset, workdir / "teacher", embedding_dim=config.model.embedding_dim)

A new kind is a function that opens a `Teacher` and its registration here, or `KINDS["name"] = Kind(open)` elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from psdiff_jax.teacher.targets import Targets, Wanted

if TYPE_CHECKING:
    import numpy as np

    from psdiff_jax.data.records import Images
    from psdiff_jax.teacher.options import TeacherOptions


class Teacher(Protocol):
    """What a kind opens. For a network that embeds crops it is a `crop_teacher.CropTeacher`.

    title: one phrase for reports. embed: crops uint8 [B,h,w,3] RGB -> float32 [B,D], rows of length one; InputError
    where there is no network. targets: the embeddings of the boxes of some splits, see `open_targets`.
    """

    @property
    def title(self) -> str: ...
    @property
    def embed(self) -> Callable[[np.ndarray], Any]: ...
    def targets(self, dataset: Images, splits: Sequence[str], wanted: Wanted) -> Targets: ...


@dataclass(frozen=True)
class Kind:
    """One kind of teacher.

    open: (options, dataset to train on, folder of its files, and as keywords seed, workers and fit, see
      `train.train_teacher`) -> the teacher. file: what config.teacher.file must name, for messages; "" = nothing.
    """

    open: Callable[..., Teacher]
    file: str = ""


def _trained(options: TeacherOptions, train_set: Images, folder: Path, **training: Any) -> Teacher:
    from psdiff_jax.teacher.train import train_teacher

    return train_teacher(options, train_set, folder, **training).as_crop_teacher()


def _network(options: TeacherOptions, *_: Any, **__: Any) -> Teacher:
    from psdiff_jax.teacher.convert import load_teacher

    return load_teacher(options.file)


def _onnx(options: TeacherOptions, *_: Any, **__: Any) -> Teacher:
    from psdiff_jax.teacher.onnx import load_onnx

    return load_onnx(options.file, options.crop_size, options.preprocessing, options.interpolation)


def _openvino(options: TeacherOptions, *_: Any, **__: Any) -> Teacher:
    from psdiff_jax.teacher.openvino import load_openvino

    return load_openvino(options.file, options.crop_size, options.preprocessing, options.interpolation)


def _file(options: TeacherOptions, *_: Any, **__: Any) -> Teacher:
    from psdiff_jax.teacher.embedding_file import EmbeddingFile

    return EmbeddingFile(Path(options.file))


def _none(*_: Any, **__: Any) -> Teacher:
    from psdiff_jax.teacher.absent import NoTeacher

    return NoTeacher()


KINDS: dict[str, Kind] = {  # each imports what it needs when it is opened
    "trained": Kind(_trained),
    "network": Kind(_network, "a checkpoint of a re-ID network, or OUT.npz of psdiff_jax.teacher.convert"),
    "onnx": Kind(_onnx, "an .onnx of a re-ID network"),
    "openvino": Kind(_openvino, "the .xml of an OpenVINO IR of a re-ID network"),
    "file": Kind(_file, "an .npz with the embeddings"),
    "none": Kind(_none),
}


def open_teacher(options: TeacherOptions, dataset: Images, workdir: str | Path, **training: Any) -> Teacher:
    """The teacher that `config.teacher` describes; one that is trained here is trained (or found) in `workdir`.

    training: seed, workers and fit of `train.train_teacher`.
    """
    return KINDS[options.kind].open(options, dataset, Path(workdir), **training)


def open_targets(
    options: TeacherOptions,
    dataset: Images,
    workdir: str | Path,
    splits: Sequence[str] = ("train",),
    *,
    embedding_dim: int | None,
    train_set: Images | None = None,
    teacher: Teacher | None = None,
    workers: int = 1,
    **training: Any,
) -> Targets:
    """The targets that `config.teacher` describes.

    Args:
      embedding_dim: config.model's; embeddings of another width go through a PCA of the train split's (`workdir` keeps
        it). None: the teacher's own width, whatever it is.
      train_set: where a teacher is trained and the PCA fitted; None: `dataset`. Embeddings of kind "file" are of one
        dataset.
      teacher: what `open_teacher` gave, where it is open already. workers: threads that decode images.
      training: seed and fit of `train.train_teacher`.
    """
    train_set = train_set or dataset
    teacher = teacher or open_teacher(options, train_set, workdir, workers=workers, **training)
    wanted = Wanted(Path(workdir), embedding_dim, train_set, options.whiten, workers)
    return teacher.targets(dataset, splits, wanted)
