"""A second evaluator, loop by loop in plain Python with scikit-learn's average precision, that the fast one must equal.

It shares no code with psdiff_jax.evaluation; it is written from the rules themselves and slow on purpose.
"""

from sklearn.metrics import average_precision_score


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def floats(box):
    return [float(v) for v in box]


def detections_of(gallery, name, threshold):
    """[(row, box)] of the photograph `name` with a score of at least `threshold`."""
    rows = []
    for row in range(len(gallery.scores)):
        if gallery.images[gallery.image_index[row]] == name and gallery.scores[row] >= threshold:
            rows.append((row, floats(gallery.boxes[row])))
    return rows


def plain_gallery(protocol, q, annotations, queries):
    """Names of the photographs query q meets under "whole", "cross_camera", "same_camera" or "temporal_gap:G"."""
    kind, _, gap = protocol.partition(":")
    names = []
    for i, name in enumerate(annotations.image_names):
        if name == queries.image_names[q]:
            continue
        same = annotations.cameras[i] == queries.cameras[q]
        if kind == "cross_camera" and same:
            continue
        if kind == "same_camera" and not same:
            continue
        if kind == "temporal_gap" and same and abs(int(annotations.frames[i]) - int(queries.frames[q])) <= int(gap):
            continue
        names.append(name)
    return names


def plain_search(gallery, query, annotations, queries, galleries, threshold, only=None):
    """Per query {"ap", "first_rank", "truths", "found"}; `galleries[q]` lists photograph names, repeats allowed."""
    truth_of = {}
    for name, boxes, ids in zip(annotations.image_names, annotations.boxes, annotations.person_ids, strict=True):
        for box, person in zip(boxes, ids, strict=True):
            if person >= 0 and (name, int(person)) not in truth_of:
                truth_of[name, int(person)] = floats(box)
    kept = {name: [] for name in annotations.image_names}
    for row in range(len(gallery.scores)):
        if gallery.scores[row] >= threshold:
            kept[gallery.images[gallery.image_index[row]]].append(row)
    results = []
    for q in range(len(queries.image_names)) if only is None else only:
        person = int(queries.person_ids[q])
        labels, similarities, seen = [], [], set()
        truths = found = 0
        for name in galleries[q]:
            truth = truth_of.get((name, person))
            truths += truth is not None
            if not kept[name] or name in seen:
                continue
            seen.add(name)
            rows = kept[name]
            sims = [float(v) for v in gallery.embeddings[rows] @ query.embeddings[q]]
            label = [0] * len(rows)
            if truth is not None:
                w, h = truth[2] - truth[0], truth[3] - truth[1]
                limit = min(0.5, w * h / ((w + 10) * (h + 10)))
                for place in sorted(range(len(rows)), key=lambda i: -sims[i]):
                    if overlap(floats(gallery.boxes[rows[place]]), truth) >= limit:
                        label[place] = 1
                        found += 1
                        break
            labels += label
            similarities += sims
        ap = average_precision_score(labels, similarities) * found / truths if found else 0.0
        # equal similarities: the wrong one stands first
        walk = sorted(zip(similarities, labels, strict=True), key=lambda pair: (-pair[0], pair[1]))
        first = next((place for place, pair in enumerate(walk, 1) if pair[1]), 0)
        results.append({"ap": float(ap), "first_rank": first, "truths": truths, "found": found})
    return results


def plain_detection(gallery, annotations, threshold, labelled_only):
    """(recall, AP x recall) by the mutual row and column maximum rule."""
    labels, scores, found, truths = [], [], 0, 0
    for name, boxes, ids in zip(annotations.image_names, annotations.boxes, annotations.person_ids, strict=True):
        truth = [floats(b) for b, p in zip(boxes, ids, strict=True) if p >= 0 or not labelled_only]
        if labelled_only and not truth:
            continue
        truths += len(truth)
        rows = detections_of(gallery, name, threshold)
        iou = [[overlap(t, box) for _, box in rows] for t in truth]
        for j, (row, _) in enumerate(rows):
            right = False
            for i in range(len(truth)):
                column = [iou[n][j] for n in range(len(truth))]
                is_column_best = column.index(max(column)) == i
                is_row_best = iou[i].index(max(iou[i])) == j
                right = right or (iou[i][j] >= 0.5 and is_column_best and is_row_best)
            labels.append(int(right))
            scores.append(float(gallery.scores[row]))
            found += right
    recall = found / truths if truths else 0.0
    ap = average_precision_score(labels, scores) * recall if found else 0.0
    return recall, float(ap)
