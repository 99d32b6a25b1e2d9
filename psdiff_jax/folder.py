"""`--mode embed` and `--mode search` on a folder of images and videos (config.data.name=folder)."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.api import PeopleIndex, PersonSearch
from psdiff_jax.command_line import check_box, image_query
from psdiff_jax.config import Config
from psdiff_jax.data.media import IGNORED, frame_at, read_image
from psdiff_jax.errors import InputError
from psdiff_jax.files import write_atomically
from psdiff_jax.gallery import write_hits


def embed(config: Config, workdir: Path) -> PeopleIndex:
    """Makes or updates `workdir/index`, and prints what it did."""
    index = PersonSearch.of_run(config, workdir).index(config.evaluation_data.root, workdir / "index")
    if parallel.is_main_process():
        print(f"{index.summary}\nindex: {index.folder}", flush=True)
    return index


def search(config: Config, workdir: Path, query: str, top: int) -> list[dict[str, Any]]:
    """Updates the index, finds one person in it and writes `workdir/search/{hits.json,hits.txt,hits.png}`.

    query: "IMAGE:x1,y1,x2,y2", the box in pixels of the upright image. An image that is in the folder itself is not
    searched.
    """
    given = image_query(query)
    if given is None:
        raise InputError(f"--query={query}: a folder has no query list; give IMAGE:x1,y1,x2,y2")
    path, box = given
    image = read_image(path)
    check_box(path, box, image)
    index = embed(config, workdir)
    hits = index.search(image, box, top, within=lambda file: not _is_same(path, index.root / str(file.path)))
    if parallel.is_main_process():
        out, by_label = workdir / "search", {hit.label: hit for hit in hits}
        sizes = {file.path: (file.height, file.width) for file in index.files}

        def load(label: str) -> np.ndarray:
            hit = by_label[label]
            file = index.root / hit.image
            try:
                return read_image(file) if hit.time is None else frame_at(file, hit.time)
            except InputError as error:  # files in a linked folder that is out of reach keep their rows
                print(f"{error}: grey in the picture", file=sys.stderr, flush=True)
                return np.full((*sizes[hit.image], 3), 128, np.uint8)

        write_atomically(out / IGNORED, "")  # a picture of hits is no image of the folder, if it stands in there
        write_hits(out, path.name, image, box, index.settings.steps, hits, load)
    return [hit.as_json() for hit in hits]


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # out of reach
        return False
