"""Writes one small set of annotated images, as JSON or as CSV."""

import copy
import json
from pathlib import Path

from .mot_tree import write_image

# file -> (height, width); the lists name some of them differently
FILES = {
    "a/1.jpg": (40, 60),
    "Zoë 2.jpg": (40, 60),
    "images/b/3.png": (50, 80),
    "4.webp": (48, 64),
    "5.bmp": (20, 30),
    "images/cam1/6.jpg": (40, 60),
}

TRAIN = {
    "info": {"year": 2026},
    "licenses": [],
    "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person", "supercategory": "person"}],
    "images": [
        {"id": 1, "file_name": "a/1.jpg", "width": 60, "height": 40, "license": 0},
        {"id": 2, "file_name": "Zoë 2.jpg", "width": 60, "height": 40},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [5, 6, 10, 20],
            "person_id": "anna",
            "area": 200,
            "segmentation": [[5, 6, 15, 6, 15, 26]],
            "keypoints": [0] * 51,
            "num_keypoints": 0,
            "iscrowd": 0,
        },
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [30.5, 0, 8, 16], "person_id": None},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [50, 10, 20, 25], "person_id": "anna"},  # over the border
        {"id": 4, "image_id": 2, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        {"id": 5, "image_id": 2, "category_id": 3, "bbox": [0, 0, 20, 20]},
        {"id": 6, "image_id": 2, "category_id": 1, "bbox": [8, 8, 0, 20], "person_id": "nobody"},  # no width
    ],
}
GALLERY = {
    "images": [
        {"id": "x", "file_name": "b\\3.png", "width": 80, "height": 50, "camera": 2, "frame": 7},
        {"id": "y", "file_name": "./4.webp", "camera": 2, "frame": 90},
        {"id": "z", "file_name": "5.bmp", "camera": 3},  # nobody in it
        {"id": "w", "file_name": "C:\\data\\cam1\\6.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": "x", "bbox": [0, 0, 14, 22], "person_id": "bob"},
        {"id": 2, "image_id": "y", "bbox": [1, 2, 10, 20], "person_id": "bob"},
        {"id": 3, "image_id": "x", "bbox": [20, 5, 10, 20], "person_id": "Ünal"},
        {"id": 4, "image_id": "y", "bbox": [30, 30, 5, 5], "person_id": -1},
        {"id": 5, "image_id": "w", "bbox": [2, 2, 10, 10], "person_id": "bob"},
    ],
}
CSV = """image,x,y,width,height,person_id,split,camera,frame,query,remark
a/1.jpg,5,6,10,20,anna,train,,,,
a/1.jpg,30.5,0,8,16,,train,,,,"nobody, really"
Zoë 2.jpg,50,10,20,25,anna,train,,,,

Zoë 2.jpg,8,8,0,20,nobody,train,,,,
b\\3.png,0,0,14,22,bob,gallery,2,7,,
./4.webp,1,2,10,20,bob,gallery,2,90,,
b\\3.png,20,5,10,20,Ünal,gallery,2,7,,
./4.webp,30,30,5,5,-1,gallery,2,90,,
5.bmp,,,,,,gallery,3,,,
C:\\data\\cam1\\6.jpg,2,2,10,10,bob,gallery
"""


def write_images(root: Path) -> Path:
    for i, (name, (height, width)) in enumerate(FILES.items()):
        write_image(root / name, height, width, 30 * i)
    return root


def write_json(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def json_tree(root: Path) -> Path:
    """train.json and gallery.json."""
    write_images(root)
    write_json(root / "train.json", TRAIN)
    write_json(root / "gallery.json", GALLERY)
    return root


def csv_tree(root: Path, text: str = CSV) -> Path:
    """The same as annotations.csv, byte for byte as `text` says."""
    write_images(root)
    (root / "annotations.csv").write_bytes(text.encode())
    return root


def changed(data: dict, change) -> dict:
    """A copy of a list after `change(copy)`."""
    data = copy.deepcopy(data)
    change(data)
    return data


def one_json(root: Path) -> Path:
    """The same as annotations.json, the images of both splits in it with a "split"."""
    write_images(root)
    images = [
        image | {"split": split} for split, data in (("train", TRAIN), ("gallery", GALLERY)) for image in data["images"]
    ]
    annotations = [*TRAIN["annotations"], *({"category_id": 1} | a for a in GALLERY["annotations"])]
    write_json(root / "annotations.json", TRAIN | {"images": images, "annotations": annotations})
    return root
