"""TFDS builder of PRW: `config.data.name = "prw"`, `config.data.root` = a folder in PRW's format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from psdiff_jax.data.schema import query_example, scene_example, scene_features
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.datasets.prw import reader
from psdiff_jax.errors import InputError


class Prw(tfds.core.GeneratorBasedBuilder):
    """PRW with its official splits: `train` (frame_train), `gallery` (frame_test), `query` (query_info).

    Args:
      data_dir: where TFDS keeps the prepared records.
      root: folder in PRW's on-disk format (see `reader`).

    `report` counts, for each split, images, boxes, labelled ids and the dropped boxes (without area).
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, data_dir: str, root: str):
        self.root = Path(root).expanduser()
        self.report: dict[str, Any] = {}
        reader.check_folder(self.root)
        super().__init__(data_dir=data_dir)

    @classmethod
    def fingerprint(cls, root: str) -> str:
        """A digest of the contents of `root`: a copy elsewhere is the same dataset, a changed one is not."""
        reader.check_folder(Path(root).expanduser())
        return reader.fingerprint(Path(root).expanduser())

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="PRW: frames of six cameras on a campus, with labelled and unlabelled people.",
            features=scene_features(),
            disable_shuffling=True,  # records stand in the order of the official lists
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        # All lists, annotations and image headers are read before the first record is written: they are quick to
        # read, and a mistake is then told in seconds, not after the images.
        scenes = {split: reader.read_scenes(self.root, split) for split in reader.SPLIT_FILES}
        both = {scene.name for scene in scenes["train"]} & {scene.name for scene in scenes["gallery"]}
        if both:
            raise InputError(
                f"{self.root}: frame {min(both)} is in frame_train.mat and in frame_test.mat; remove it from one"
            )
        queries = reader.read_queries(self.root, scenes["gallery"])
        for split, found in scenes.items():
            labelled = {int(person_id) for scene in found for person_id in scene.person_ids if person_id >= 0}
            self.report[split] = {
                "images": len(found),
                "boxes": sum(len(scene.boxes) for scene in found),
                "ids": len(labelled),
                "dropped_boxes": sum(scene.dropped for scene in found),
            }
        self.report["query"] = {"queries": len(queries), "ids": len({query.person_id for query in queries})}
        generators = {split: self._generate_examples(found) for split, found in scenes.items()}
        return {**generators, "query": self._generate_queries(queries)}

    def _generate_examples(self, scenes: list[reader.Scene]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, scene in enumerate(scenes):
            image = scene.path.read_bytes()
            decode_image(image, str(scene.path))  # a broken photograph is found now, by name
            yield (
                key,
                scene_example(
                    image=image,
                    image_name=scene.name,
                    height=scene.height,
                    width=scene.width,
                    boxes=scene.boxes,
                    person_ids=scene.person_ids,
                    camera=scene.camera,
                    frame=scene.frame,
                ),
            )

    def _generate_queries(self, queries: list[reader.Query]) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, query in enumerate(queries):
            yield (
                key,
                query_example(
                    image_name=query.image_name,
                    box=query.box,
                    person_id=query.person_id,
                    camera=query.camera,
                    frame=query.frame,
                ),
            )
