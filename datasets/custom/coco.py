"""Lists in COCO's JSON, each annotation with a `person_id`.

    {"images":      [{"id", "file_name", "width", "height", "split", "camera", "frame"}],
     "annotations": [{"id", "image_id", "bbox": [x, y, width, height], "person_id", "category_id", "iscrowd", "query"}],
     "categories":  [{"id", "name"}]}

Required are id, file_name, image_id and bbox, and split if one file holds both splits; other keys are not read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psdiff_jax.datasets.common.records import ERROR, KNOWN, WARNING, RawDataset
from psdiff_jax.datasets.custom.listing import (
    SPLITS,
    BoxEntry,
    ImageEntry,
    Listing,
    normalized_name,
    parse_frame,
    parse_id,
    parse_xywh,
)
from psdiff_jax.errors import InputError


def read_coco(path: Path, split: str | None, listing: Listing, dataset: RawDataset) -> None:
    """Adds a file to the listing.

    split: of all its images; "query": its annotations are queries in gallery images; None: each image names its own.

    Raises:
      InputError: the file is no JSON of this form.
    """
    data = _load(path)
    if split is None and data["images"] and not any("split" in image for image in data["images"]):
        dataset.note(WARNING, "no split", path, 'no image has a "split": all become the gallery')
        split = "gallery"
    names: dict[Any, str] = {}
    for image in data["images"]:
        try:
            _add_image(path, image, split, listing, names)
        except ValueError as error:
            dataset.note(ERROR, "wrong image record", f"{path} image {image.get('id')!r}", f"{error}; correct it")
    boxes = listing.queries if split == "query" else listing.boxes
    boxes.extend(_boxes(path, data, names, dataset))


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # wrong JSON, or no text in UTF-8
        raise InputError(f"{path} is not JSON ({error}); export it again") from error
    for key in ("images", "annotations", "categories"):
        found = data.get(key, [] if key != "images" else None) if isinstance(data, dict) else None
        if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
            raise InputError(f"{path} has no list of records {key!r}, as COCO's format has; export it in that format")
    return data


def _add_image(path: Path, image: dict[str, Any], split: str | None, listing: Listing, names: dict[Any, str]) -> None:
    key, file_name = image.get("id"), image.get("file_name")
    if not isinstance(key, (int, float, str)):
        raise ValueError("it has no id")
    if key in names:
        raise ValueError(f"another image has the same id, {names[key]}")
    if not isinstance(file_name, str) or not file_name.strip():
        raise ValueError("it has no file_name")
    names[key] = name = normalized_name(file_name)
    if split == "query":
        return
    own = split if split is not None else image.get("split")
    if own not in SPLITS:
        raise ValueError(f'{name} has the split {own!r}, expected "train" or "gallery"')
    if name in listing.images:
        raise ValueError(f"{name} is in the lists already, as {listing.images[name].where}")
    size = tuple(
        int(side)
        for side in (image.get("height"), image.get("width"))
        if isinstance(side, (int, float)) and 1 <= side < 1e9
    )  # other values are ignored
    listing.images[name] = ImageEntry(
        f"{path} image {key!r}",
        name,
        own,
        size if len(size) == 2 else None,
        parse_id(image.get("camera")),
        parse_frame(image.get("frame")),
    )


def _boxes(path: Path, data: dict[str, Any], names: dict[Any, str], dataset: RawDataset) -> Iterator[BoxEntry]:
    wanted = _person_categories(path, data, dataset)
    left_out: Counter[str] = Counter()
    for annotation in data.get("annotations", []):
        reason = _left_out(annotation, wanted)
        if reason:
            left_out[reason] += 1
            continue
        where = f"{path} annotation {annotation.get('id')!r}"
        try:
            image = annotation.get("image_id")
            if not isinstance(image, (int, float, str)) or image not in names:
                raise ValueError(f"there is no image with the image_id {image!r}")
            yield BoxEntry(
                where,
                names[image],
                parse_xywh(annotation.get("bbox")),
                parse_id(annotation.get("person_id")),
                bool(annotation.get("query")),
            )
        except ValueError as error:
            dataset.note(ERROR, "wrong annotation record", where, f"{error}; correct it")
    for reason, count in left_out.items():
        dataset.note(KNOWN, reason, path, f"{count} annotations are left out: {reason}")


def _left_out(annotation: dict[str, Any], wanted: list[Any] | None) -> str:
    """Why an annotation is not the box of a person; "" for one that is."""
    if annotation.get("iscrowd"):
        return "crowds (iscrowd)"
    if wanted is not None and annotation.get("category_id", wanted[0] if wanted else None) not in wanted:
        return "other categories than person"
    return ""


def _person_categories(path: Path, data: dict[str, Any], dataset: RawDataset) -> list[Any] | None:
    """The ids of the category person; None if the file has no categories."""
    categories = data.get("categories", [])
    wanted = [category.get("id") for category in categories if str(category.get("name")).strip().lower() == "person"]
    if not categories:
        return None
    if not wanted:
        found = ", ".join(" ".join(str(category.get("name")).split()) for category in categories)
        what = f'no category is called "person", there are {found}; rename the one of people'
        dataset.note(ERROR, "no category person", path, what)
    return wanted
