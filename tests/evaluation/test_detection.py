"""Detection: hand-worked cases, scikit-learn, pycocotools, and the plain evaluator."""

import contextlib
import io

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from psdiff_jax.errors import InputError
from psdiff_jax.evaluation.detection import average_precision, coco_metrics, detection_metrics
from psdiff_jax.ops.boxes import box_iou


@pytest.mark.parametrize("seed", range(50))
def test_average_precision_is_sklearns(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 40)
    labels = rng.random(size) < rng.random()
    labels[rng.integers(size)] = True
    scores = rng.integers(0, 6, size) / 5.0 if seed % 2 else rng.random(size)  # every other case is full of ties
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_average_precision_without_a_positive_is_zero():
    assert average_precision(np.zeros(3), np.arange(3)) == 0.0
    assert average_precision(np.zeros(0), np.zeros(0)) == 0.0


def test_iou_by_hand():
    iou = box_iou(np.array([[0, 0, 10, 10], [0, 0, 0, 0]]), np.array([[0, 0, 10, 5], [5, 5, 15, 15], [0, 0, 0, 0]]))
    np.testing.assert_allclose(iou, [[0.5, 25 / 175, 0], [0, 0, 0]])


def test_two_detections_on_one_box(make):
    """The better overlap is the true positive although the other scores higher: labels by falling score 0, 1; AP 1/2,
    recall 1."""
    annotations = make.annotations([("a", 0, 0, [((0, 0, 10, 10), 1)])])
    gallery = make.gallery(annotations, [("a", (0, 0, 10, 8), 0.9, [1, 0]), ("a", (0, 0, 10, 9), 0.8, [1, 0])])
    assert detection_metrics(gallery, annotations) == {"recall": 1.0, "AP": 0.5, "truths": 1, "detections": 2}


def test_mutual_maximum_leaves_a_box_without_detection(make):
    """One detection over two boxes counts for its best only; images without detections add their boxes."""
    annotations = make.annotations(
        [("a", 0, 0, [((0, 0, 10, 10), 1), ((0, 1, 10, 11), -1)]), ("b", 0, 0, [((0, 0, 9, 9), -1), ((0, 0, 9, 9), 2)])]
    )
    gallery = make.gallery(annotations, [("a", (0, 0, 10, 10), 0.9, [1, 0])])
    assert detection_metrics(gallery, annotations)["recall"] == 1 / 4
    assert detection_metrics(gallery, annotations)["AP"] == 1 / 4
    assert detection_metrics(gallery, annotations, labelled_only=True)["recall"] == 1 / 2


def test_labelled_only_leaves_images_without_a_labelled_box_out(make):
    annotations = make.annotations([("a", 0, 0, [((0, 0, 10, 10), 1)]), ("b", 0, 0, [((0, 0, 9, 9), -1)])])
    found = [("b", (0, 0, 9, 9), 0.9, [1, 0]), ("a", (0, 0, 10, 10), 0.8, [1, 0])]
    gallery = make.gallery(annotations, found)
    assert detection_metrics(gallery, annotations, labelled_only=True)["AP"] == 1.0
    assert detection_metrics(gallery, annotations)["AP"] == 1.0


def test_threshold_and_an_image_without_persons(make):
    """Labels by score 0 (a false alarm in an empty image), 1; what scores under the threshold is dropped."""
    annotations = make.annotations([("a", 0, 0, [((0, 0, 10, 10), 1)]), ("empty", 0, 0, [])])
    found = [
        ("empty", (0, 0, 5, 5), 0.9, [1, 0]),
        ("a", (0, 0, 10, 10), 0.5, [1, 0]),
        ("a", (20, 0, 30, 9), 0.1, [1, 0]),
    ]
    gallery = make.gallery(annotations, found)
    assert detection_metrics(gallery, annotations, threshold=0.2)["AP"] == 0.5
    assert detection_metrics(gallery, annotations, threshold=0.5)["detections"] == 2
    assert detection_metrics(gallery, annotations, threshold=0.95) == {
        "recall": 0.0,
        "AP": 0.0,
        "truths": 1,
        "detections": 0,
    }


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("labelled_only", [False, True])
def test_equals_the_plain_evaluator(plain, make, seed, labelled_only):
    case = make.random_case(seed)
    ours = detection_metrics(case.gallery, case.annotations, 0.3, labelled_only)
    recall, ap = plain.plain_detection(case.gallery, case.annotations, 0.3, labelled_only)
    assert (ours["recall"], ours["AP"]) == pytest.approx((recall, ap), abs=1e-9)


def test_an_unknown_image_is_named(make):
    annotations = make.annotations([("a", 0, 0, [])])
    gallery = make.gallery(annotations, [("stray", (0, 0, 1, 1), 0.5, [1, 0])], images=["stray"])
    with pytest.raises(InputError, match="'stray'"):
        detection_metrics(gallery, annotations)


def pycocotools_metrics(gallery, annotations):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2]) - float(box[0]), float(box[3]) - float(box[1])]

    gt, number = [], 0
    for i, boxes in enumerate(annotations.boxes):
        for box in boxes:
            number += 1
            x, y, w, h = xywh(box)
            gt.append(
                {"id": number, "image_id": i, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            )
    at = {name: i for i, name in enumerate(annotations.image_names)}
    found = [
        {"image_id": at[gallery.images[m]], "category_id": 1, "bbox": xywh(box), "score": float(score)}
        for m, box, score in zip(gallery.image_index, gallery.boxes, gallery.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "images": [{"id": i} for i in range(len(annotations.boxes))],
            "annotations": gt,
            "categories": [{"id": 1}],
        }
        reference.createIndex()
        evaluation = cocoeval.COCOeval(reference, reference.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(("AP", "AP50", "AP75"), (float(v) for v in evaluation.stats), strict=False))


@pytest.mark.parametrize("seed", range(25))
def test_coco_equals_pycocotools(make, seed):
    case = make.random_case(seed, images=20, ties=seed % 5 == 0)
    assert coco_metrics(case.gallery, case.annotations) == pytest.approx(
        pycocotools_metrics(case.gallery, case.annotations), abs=1e-9
    )


def test_coco_crowded_images_and_no_detections(make):
    """More than 100 detections in an image, equal ground-truth boxes, equal scores."""
    rng = np.random.default_rng(3)
    boxes = [(*corner, *(corner + 20)) for corner in rng.integers(0, 200, (60, 2))]
    annotations = make.annotations([("a", 0, 0, [(b, -1) for b in boxes + boxes[:5]]), ("b", 0, 0, [])])
    found = [("a", np.add(b, rng.integers(-2, 3, 4)), rng.integers(0, 9) / 9, [1, 0]) for b in boxes * 4]
    gallery = make.gallery(annotations, found)
    assert coco_metrics(gallery, annotations) == pytest.approx(pycocotools_metrics(gallery, annotations), abs=1e-9)
    assert coco_metrics(make.gallery(annotations, []), annotations) == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
