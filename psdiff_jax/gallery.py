"""`--mode embed` and `--mode search` in the gallery of an annotated dataset; `folder` does the same in a folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.api import load_embedder
from psdiff_jax.command_line import check_box, image_query
from psdiff_jax.config import Config
from psdiff_jax.data.detections import Detections, load_embeddings, save_embeddings
from psdiff_jax.data.records import PreparedDataset
from psdiff_jax.data.transforms import decode_image
from psdiff_jax.errors import InputError
from psdiff_jax.files import write_atomically
from psdiff_jax.inference.calibrate import calibrated_threshold
from psdiff_jax.inference.embed import Embedder, LoadImage, image_loader
from psdiff_jax.inference.embed_split import embed_all, remove_shards, shards_folder
from psdiff_jax.inference.ranking import Hit, rank
from psdiff_jax.report.rankings import search_picture, write_picture
from psdiff_jax.report.terminal import format_hits

StepDetections = Mapping[Any, tuple[Detections, Detections]]  # number of steps -> (gallery, query)


def embed(config: Config, workdir: Path, dataset: PreparedDataset) -> None:
    """Embeds gallery and queries and writes `workdir/embeddings`."""
    _embed(config, workdir, dataset, load_embedder(config, workdir)[0])


def _embed(config: Config, workdir: Path, dataset: PreparedDataset, embedder: Embedder) -> None:
    write_embeddings(config, workdir, embed_all(embedder, dataset, shards_folder(workdir)))
    remove_shards(workdir)


def write_embeddings(config: Config, workdir: Path, detections: StepDetections) -> None:
    """Writes `workdir/embeddings`, of `config.exported_steps`."""
    if parallel.is_main_process():
        chosen = config.exported_steps
        for part, found in zip(("gallery", "query"), detections[chosen], strict=True):
            save_embeddings(workdir / "embeddings" / part, found)
        print(f"embeddings of {chosen} denoising steps: {workdir / 'embeddings'}", flush=True)


def search(config: Config, workdir: Path, dataset: PreparedDataset, query: str, top: int) -> list[dict[str, Any]]:
    """Finds one person in the gallery and writes `workdir/search/{hits.json,hits.txt,hits.png}`.

    query: "IMAGE:x1,y1,x2,y2" (a file of the user's, box in its pixels), or the number or image name of a query of the
    dataset. The gallery's embeddings are read from `workdir/embeddings` and made first where they are missing.
    """
    image, box, name, leave_out = find_query(query, dataset)
    embedder, _ = load_embedder(config, workdir)
    folder, steps = workdir / "embeddings" / "gallery", config.exported_steps
    if not (folder / "embeddings.npy").is_file():
        _embed(config, workdir, dataset, embedder)
    gallery, threshold = load_embeddings(folder), config.evaluate.search_threshold
    if config.data.held_out and config.evaluate.calibrate:
        threshold = calibrated_threshold(workdir, steps) or threshold
    hits = rank(embedder.embed_box(image, box, steps), gallery, top, threshold, leave_out)
    if parallel.is_main_process():
        write_hits(workdir / "search", name, image, box, steps, hits, image_loader(dataset))
    return [hit.as_json() for hit in hits]


def write_hits(
    out: Path, name: str, image: np.ndarray, box: np.ndarray, steps: int, hits: Sequence[Hit], load: LoadImage
) -> None:
    """Writes hits.json, hits.txt and hits.png, and prints the table.

    name, image, box: the query's; box xyxy pixels of its image uint8 [H,W,3]. load: the image of a hit, by its label.
    """
    table = format_hits(hits)
    answer = {
        "query": {"image": name, "box": [float(v) for v in box]},
        "denoising_steps": steps,
        "hits": [hit.as_json() for hit in hits],
    }
    write_atomically(out / "hits.json", json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    write_atomically(out / "hits.txt", table + "\n")
    labelled = [replace(hit, image=hit.label) for hit in hits]
    write_picture(out / "hits.png", search_picture(image, box, labelled, load, name=name))
    print(f"{table}\nsearch: {out}", flush=True)


def find_query(query: str, dataset: PreparedDataset) -> tuple[np.ndarray, np.ndarray, str, tuple[str, ...]]:
    """(image uint8 RGB, box [4] in its pixels, name, gallery images to leave out) of a --query."""
    given = image_query(query)
    if given:
        path, box = given
        image = decode_image(path.read_bytes(), str(path))
        check_box(path, box, image)
        return image, box, path.name, ()
    queries = dataset.queries()
    if query.isdigit() and int(query) < len(queries.image_names):
        row = int(query)
    elif query in queries.image_names:
        row = queries.image_names.index(query)
    else:
        raise InputError(
            f"--query={query}: neither IMAGE:x1,y1,x2,y2 nor a query of {dataset.name} (a number "
            f"below {len(queries.image_names)}, or an image name such as {queries.image_names[0]})"
        )
    name = queries.image_names[row]
    return image_loader(dataset)(name), queries.boxes[row], name, (name,)
