"""Writes folders in CUHK-SYSU's on-disk format, its cells and structs nested as in the release.

    write_tree(root)                     the small tree below, with all known defects of the release
    save_list(root, "TestG50", [...])    one of its files anew, to break it

Boxes are x, y, width, height. The images are 80 x 60 (width x height).
"""

from pathlib import Path

import cv2
import numpy as np
import scipy.io

# Images.mat in its order; s1 and s7 hold a box without area, s12 one that reaches over the lower border
IMAGES = {
    "s4.jpg": [[10, 10, 20, 30], [60, 40, 10, 15]],
    "s1.jpg": [[0, 0, 10, 20], [30, 5, 12, 40], [5, 5, 0, 9]],
    "s12.jpg": [[5, 6, 10, 20], [40, 10, 30, 60]],
    "s2.jpg": [[1, 2, 10, 20], [20, 2, 10, 20]],
    "s3.jpg": [[3, 3, 9, 9]],
    "s5.jpg": [[8, 8, 15, 25], [50, 8, 15, 25]],
    "s6.jpg": [],
    "s7.jpg": [[2, 2, 20, 40], [30, 2, 20, 0]],
}
POOL = ["s12.jpg", "s4.jpg", "s7.jpg", "s5.jpg", "s6.jpg"]
TRAIN = [  # p2 is twice in s2.jpg; no box of s3.jpg is listed
    ("p31", [("s1.jpg", [30, 5, 12, 40])]),
    ("p2", [("s1.jpg", [0, 0, 10, 20]), ("s2.jpg", [1, 2, 10, 20]), ("s2.jpg", [20, 2, 10, 20])]),
]
FIRST = ("s12.jpg", [5, 6, 10, 20], "p70")
SECOND = ("s7.jpg", [2, 2, 20, 40], "p11")
LISTS = {
    "TestG50": [
        (*FIRST, [("s4.jpg", [10, 10, 20, 30]), ("s5.jpg", None), ("s5.jpg", None), ("s6.jpg", None)]),  # s5.jpg twice
        (*SECOND, [("s12.jpg", [40, 10, 30, 60]), ("s5.jpg", [8, 8, 15, 25]), ("s4.jpg", None)]),
    ],
    "TestG100": [  # in another order than TestG50, unlike the release: the query counts, not its position
        (*SECOND, [("s12.jpg", [40, 10, 30, 60]), ("s5.jpg", [8, 8, 15, 25]), ("s4.jpg", None), ("s6.jpg", None)]),
        (*FIRST, [("s4.jpg", [10, 10, 20, 30]), ("s7.jpg", None)]),
    ],
    "Occlusion": [  # another box of p11; then a query of the other lists
        ("s5.jpg", [50, 8, 15, 25], "p11", [("s6.jpg", None), ("s7.jpg", [2, 2, 20, 40])]),
        (*FIRST, [("s4.jpg", [10, 10, 20, 30]), ("s5.jpg", None)]),
    ],
    "Resolution": [  # a box that the other lists call p70; a person whom no other list names
        ("s4.jpg", [10, 10, 20, 30], "", [("s12.jpg", [5, 6, 10, 20])]),
        ("s4.jpg", [60, 40, 10, 15], "p99", [("s7.jpg", None), ("s6.jpg", None)]),
    ],
}
VARIABLES = {"Occlusion": "Occlusion1", "Resolution": "Test_Size"}
ENTRY = ("imname", "idlocate", "ishard")


def write_tree(root: Path) -> Path:
    """The whole tree; returns `root`."""
    for folder in ("Image/SSM", "annotation/test/train_test", "annotation/test/subset"):
        (root / folder).mkdir(parents=True)
    for i, name in enumerate(IMAGES):
        save_image(root / "Image" / "SSM" / name, 20 + 20 * i)
    save_images(root, IMAGES)
    save_pool(root, POOL)
    save_train(root, TRAIN)
    for name, entries in LISTS.items():
        save_list(root, name, entries)
    return root


def save_image(path: Path, brightness: int, size: tuple[int, int] = (60, 80)) -> None:
    path.write_bytes(cv2.imencode(".jpg", np.full((*size, 3), brightness, np.uint8))[1].tobytes())


def save_images(root: Path, images: dict[str, list]) -> None:
    rows = [
        (name, number(len(boxes)), structs(("idlocate", "ishard"), [(row(box), number(0)) for box in boxes]))
        for name, boxes in images.items()
    ]
    save(root / "annotation" / "Images.mat", "Img", structs(("imname", "nAppear", "box"), rows))


def save_pool(root: Path, names: list[str]) -> None:
    save(root / "annotation" / "pool.mat", "pool", cells(names).reshape(-1, 1))


def save_train(root: Path, identities: list) -> None:
    """One cell per identity, with a struct of one element."""
    scenes = [structs(ENTRY, [(name, row(box), number(0)) for name, box in shown]) for _, shown in identities]
    rows = [
        structs(("idname", "nAppear", "scene"), [(name, number(len(shown)), scene)])
        for (name, shown), scene in zip(identities, scenes, strict=True)
    ]
    save(root / "annotation" / "test" / "train_test" / "Train.mat", "Train", cells(rows).reshape(-1, 1))


def save_list(root: Path, name: str, entries: list) -> None:
    """TestG*.mat, Occlusion.mat or Resolution.mat."""
    save(list_path(root, name), VARIABLES.get(name, name), list_array(name, entries))


def list_path(root: Path, name: str) -> Path:
    return root / "annotation" / "test" / ("subset" if name in VARIABLES else "train_test") / f"{name}.mat"


def list_array(name: str, entries: list) -> np.ndarray:
    """[1, P] structs of a query and its gallery; Occlusion.mat has one more field."""
    fields = ("Query", "Gallery", "occlusion")[: 3 if name == "Occlusion" else 2]
    rows = []
    for image, box, id_name, gallery in entries:
        query = structs((*ENTRY, "idname"), [(image, row(box), number(0), id_name)])
        shown = structs(ENTRY, [(other, row(where), number(0) if where else row(None)) for other, where in gallery])
        rows.append((query, shown, number(1))[: len(fields)])
    return structs(fields, rows)


def structs(fields: tuple[str, ...], rows: list[tuple]) -> np.ndarray:
    """[1, n] structs; MATLAB's [] where there are none."""
    array = np.empty((1, len(rows)), [(name, object) for name in fields])
    for i, values in enumerate(rows):
        array[0, i] = values
    return array if rows else np.zeros((0, 0))


def cells(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def row(box: list | None) -> np.ndarray:
    """[1, 4] in the smallest type, as MATLAB stores it: 8 or 16 bits; [1, 0] for None."""
    if box is None:
        return np.zeros((1, 0))
    array = np.asarray([box])
    if array.dtype.kind == "f" or array.min(initial=0) < 0 or array.max(initial=0) > 65_535:
        return array.astype(np.float64)
    return array.astype(np.uint8 if array.max(initial=0) < 256 else np.uint16)


def number(value: int) -> np.ndarray:
    return np.full((1, 1), value, np.uint8)


def save(path: Path, variable: str, value: np.ndarray) -> None:
    scipy.io.savemat(path, {variable: value}, do_compression=True)
