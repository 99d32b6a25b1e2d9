"""`--mode embed` and `--mode search` in the gallery of an annotated dataset; `folder` does the same in a folder."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from psdiff_jax import parallel
from psdiff_jax.api import load_embedder, search_threshold
from psdiff_jax.command_line import check_box, image_query
from psdiff_jax.config import Config
from psdiff_jax.data.detections import Detections, load_embeddings, save_embeddings
from psdiff_jax.data.media import read_image
from psdiff_jax.data.records import PreparedDataset
from psdiff_jax.errors import InputError
from psdiff_jax.files import write_atomically
from psdiff_jax.inference.embed import Embedder, LoadImage, image_loader
from psdiff_jax.inference.embed_split import embed_all, remove_shards, shards_folder
from psdiff_jax.inference.ranking import Hit, rank
from psdiff_jax.report.rankings import search_picture, write_picture
from psdiff_jax.report.terminal import format_hits
from psdiff_jax.teacher.targets import dataset_name

StepDetections = Mapping[Any, tuple[Detections, Detections]]  # number of steps -> (gallery, query)
MADE_FROM = "made_from.json"  # of `workdir/embeddings`


def embed(config: Config, workdir: Path, dataset: PreparedDataset) -> None:
    """Embeds gallery and queries and writes `workdir/embeddings`."""
    _embed(config, workdir, dataset, load_embedder(config, workdir)[0])


def _embed(config: Config, workdir: Path, dataset: PreparedDataset, embedder: Embedder) -> None:
    write_embeddings(config, workdir, embedder, dataset, embed_all(embedder, dataset, shards_folder(workdir)))
    remove_shards(workdir)


def write_embeddings(
    config: Config, workdir: Path, embedder: Embedder, dataset: PreparedDataset, detections: StepDetections
) -> None:
    """Writes `workdir/embeddings`, of `config.exported_steps`. embedder, dataset: what made them."""
    if parallel.is_main_process():
        folder, chosen = workdir / "embeddings", config.exported_steps
        (folder / MADE_FROM).unlink(missing_ok=True)  # they are nobody's while they are replaced
        for part, found in zip(("gallery", "query"), detections[chosen], strict=True):
            save_embeddings(folder / part, found)
        write_atomically(folder / MADE_FROM, _made_from(embedder, dataset, chosen))
        print(f"embeddings of {chosen} denoising steps: {folder}", flush=True)
    parallel.meet()


def _made_from(embedder: Embedder, dataset: PreparedDataset, steps: int) -> str:
    return json.dumps({"model": embedder.hash, "steps": steps, "dataset": dataset_name(dataset)}) + "\n"


def _are_there(workdir: Path, made_from: str) -> bool:
    """Whether the gallery's embeddings in `workdir` are of this model, number of steps and dataset."""
    folder = workdir / "embeddings"
    if not (folder / "gallery" / "embeddings.npy").is_file():
        return False
    mark = folder / MADE_FROM
    if mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == made_from:
        return True
    if parallel.is_main_process():
        what = "are of another model, number of steps or dataset: making them again"
        print(f"the embeddings in {folder} {what}", file=sys.stderr, flush=True)
    return False


def search(config: Config, workdir: Path, dataset: PreparedDataset, query: str, top: int) -> list[dict[str, Any]]:
    """Finds one person in the gallery and writes `workdir/search/{hits.json,hits.txt,hits.png}`.

    query: "IMAGE:x1,y1,x2,y2" (a file of the user's, box in its pixels), or the number or image name of a query of the
    dataset. The gallery's embeddings are read from `workdir/embeddings`, and made first where they are missing or of
    another model, number of steps or dataset.
    """
    image, box, name, leave_out = find_query(query, dataset)
    embedder, _ = load_embedder(config, workdir)
    steps = config.exported_steps
    if not _are_there(workdir, _made_from(embedder, dataset, steps)):
        _embed(config, workdir, dataset, embedder)
    gallery = load_embeddings(workdir / "embeddings" / "gallery")
    threshold = search_threshold(config, workdir, steps)
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
    print(table, flush=True)
    answer = {
        "query": {"image": name, "box": [float(v) for v in box]},
        "denoising_steps": steps,
        "hits": [hit.as_json() for hit in hits],
    }
    write_atomically(out / "hits.json", json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    write_atomically(out / "hits.txt", table + "\n")
    labelled = [replace(hit, image=hit.label) for hit in hits]
    write_picture(out / "hits.png", search_picture(image, box, labelled, load, name=name))
    print(f"search: {out}", flush=True)


def find_query(query: str, dataset: PreparedDataset) -> tuple[np.ndarray, np.ndarray, str, tuple[str, ...]]:
    """(image uint8 RGB, box [4] in its pixels, name, gallery images to leave out) of a --query."""
    given = image_query(query)
    if given:
        path, box = given
        image = read_image(path)  # upright, as whoever read the box off it saw it
        check_box(path, box, image)
        return image, box, path.name, ()
    queries = dataset.queries()
    if query.isdigit() and int(query) < len(queries.image_names):
        row = int(query)
    elif query in queries.image_names:
        row = queries.image_names.index(query)
    else:
        names = queries.image_names
        known = f"(a number below {len(names)}, or an image name such as {names[0]})" if names else "(it has none)"
        raise InputError(f"--query={query}: neither IMAGE:x1,y1,x2,y2 nor a query of {dataset.name} {known}")
    name = queries.image_names[row]
    return image_loader(dataset)(name), queries.boxes[row], name, (name,)
