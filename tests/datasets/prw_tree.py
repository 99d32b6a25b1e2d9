"""A small folder in PRW's on-disk format, for tests."""

import cv2
import numpy as np
import scipy.io

# frame -> (key of the annotation, rows of pid, x, y, w, h); images are 60 x 40 (width x height)
FRAMES = {
    "c1s1_000151": ("box_new", [[479, 5, 6, 10, 20], [-2, 30.5, 0, 8, 16]]),
    "c6s2_042326": ("anno_file", [[12, -4, -2, 14, 22], [12, 20, 5, 10, 20]]),  # negative; one pid for two boxes
    "c2s1_000176": ("anno_previous", [[479, 50, 10, 20, 25], [3, 8, 8, 0, 20]]),  # over the right border; no width
    "c3s1_000201": ("box_new", [[900, 1, 2, 10, 20]]),
    "c3s3_000001": ("box_new", []),
    "odd name": ("box_new", [[-2, 0, 0, 60, 40]]),
}
TRAIN, TEST = ["c2s1_000176", "c1s1_000151"], ["c6s2_042326", "c3s1_000201", "c3s3_000001", "odd name"]
QUERIES = b"900 1 2 10 20 c3s1_000201\r\n\t12  -4\t-2 14 22   c6s2_042326  \r\n\r\n12 20 5 10 20 c6s2_042326"


def index_of(names):
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    return cells


def write_prw(root):
    """The folder `root` in PRW's format: 2 training frames, 4 test frames, 3 queries, with known defects."""
    (root / "frames").mkdir(parents=True)
    (root / "annotations").mkdir()
    for i, (name, (key, rows)) in enumerate(FRAMES.items()):
        cv2.imwrite(str(root / "frames" / f"{name}.jpg"), np.full((40, 60, 3), 20 * i, np.uint8))
        annotate(root, name, key, rows)
    scipy.io.savemat(root / "frame_train.mat", {"img_index_train": index_of(TRAIN)})
    scipy.io.savemat(root / "frame_test.mat", {"img_index_test": index_of(TEST)})
    (root / "query_info.txt").write_bytes(QUERIES)
    return root


def annotate(root, name, key, rows):
    scipy.io.savemat(root / "annotations" / f"{name}.jpg.mat", {key: np.asarray(rows, float).reshape(-1, 5)})
