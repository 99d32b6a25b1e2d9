"""A second evaluator, loop by loop in plain Python, that the fast one must equal.

Its average precision is tested against scikit-learn's, which is too slow to be called for every query. It shares no
code with psdiff_jax.evaluation; it is written from the rules themselves and slow on purpose.
"""

import itertools

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
    """[(row, box)] in the image `name` with a score of at least `threshold`."""
    rows = []
    for row in range(len(gallery.scores)):
        if gallery.images[gallery.image_index[row]] == name and gallery.scores[row] >= threshold:
            rows.append((row, floats(gallery.boxes[row])))
    return rows


def plain_gallery(protocol, q, annotations, queries, seed=0):
    """Names of the images in the gallery of query q under "whole", "cross_camera", "same_camera", "temporal_gap:G" or
    "sized:N"."""
    kind, _, value = protocol.partition(":")
    if kind == "sized":
        return plain_sized(value, q, annotations, queries, seed)
    names = []
    for i, name in enumerate(annotations.image_names):
        if name == queries.image_names[q]:
            continue
        same = annotations.cameras[i] == queries.cameras[q]
        if kind == "cross_camera" and same:
            continue
        if kind == "same_camera" and not same:
            continue
        if kind == "temporal_gap" and same and abs(int(annotations.frames[i]) - int(queries.frames[q])) <= int(value):
            continue
        names.append(name)
    return names


def plain_sized(size, q, annotations, queries, seed):
    """Every image that shows the person, then those of smallest draw, never the query's own."""
    draws = philox(seed, q, len(annotations.image_names))
    positives, others = [], []
    for name, ids, draw in zip(annotations.image_names, annotations.person_ids, draws, strict=True):
        if name == queries.image_names[q]:
            continue
        if any(int(person) == int(queries.person_ids[q]) for person in ids):
            positives.append(name)
        else:
            others.append((draw, name))
    if size == "all":
        return positives + [name for _, name in others]
    return positives + [name for _, name in sorted(others)[: max(0, int(size) - len(positives))]]


def philox(key_0, key_1, count):
    """Philox4x64-10 from its paper (Salmon et al. 2011), counters 1, 2, ..."""
    mask, out, counter = 2**64 - 1, [], 0
    while len(out) < count:
        counter += 1
        c, k = [counter, 0, 0, 0], [key_0, key_1]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k[0], b & mask, (a >> 64) ^ c[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        out += c
    return out[:count]


def plain_list(official, q, annotations, queries, everything=False):
    """(names, ground-truth box or None of each place) of query q by an official list; with `everything` all other
    images behind it."""
    row = [int(number) for number in official.queries].index(q)
    names = [annotations.image_names[i] for i in official.images[row]]
    gt_boxes = [None] * len(names)
    for place, box in zip(official.gt_places[row], official.gt_boxes[row], strict=True):
        gt_boxes[place] = floats(box)
    if everything:
        for name in annotations.image_names:
            if name not in names and name != queries.image_names[q]:
                names.append(name)
                gt_boxes.append(None)
    return names, gt_boxes


def best_matchings(weights):
    """[(detection of person 0 or None, highest single weight)] of every matching of greatest sum; weights [person][
    detection]."""
    persons, detections = len(weights), len(weights[0])
    if persons <= detections:
        ways = [list(enumerate(columns)) for columns in itertools.permutations(range(detections), persons)]
    else:
        ways = [list(zip(rows, range(detections))) for rows in itertools.permutations(range(persons), detections)]  # noqa: B905
    sums = [sum(weights[i][j] for i, j in way) for way in ways]
    found, best = [], max(sums)
    for way, total in zip(ways, sums, strict=True):
        if total > best - 1e-9:
            outcome = (dict(way).get(0), max(weights[i][j] for i, j in way))
            if outcome not in found:
                found.append(outcome)
    return found


def rerank(met, q, gallery, query, queries, threshold, weighted, k1, k2, settle):
    """CBGM: changes the similarities of `met`, {name: (rows, similarities, gt_box)}."""
    own = [(row, box) for row, box in detections_of(gallery, queries.image_names[q], threshold)]
    beside = [row for row, box in own if overlap(floats(query.boxes[q]), box) <= 0.5]
    beside = sorted(beside, key=lambda row: (-gallery.scores[row], row))[: k2 - 1]
    every = [(-s, row, name) for name, (rows, sims, _) in met.items() for row, s in zip(rows, sims, strict=True)]
    for name in {name for _, _, name in sorted(every)[:k1]}:
        rows, sims, _ = met[name]
        weights = [sims[:]]
        for person in beside:
            factor = [float(gallery.scores[row]) if weighted else 1.0 for row in rows]
            products = [float(v) for v in gallery.embeddings[rows] @ gallery.embeddings[person]]
            weights.append([f * v for f, v in zip(factor, products, strict=True)])
        outcomes = best_matchings(weights)
        column, value = outcomes[0] if len(outcomes) == 1 else settle(weights, outcomes)
        if column is not None:
            sims[column] = value


def plain_search(
    gallery, query, annotations, queries, galleries, threshold, only=None, gt_boxes=None, option="", settle=None
):
    """Per query {"ap", "first_rank", "positives", "found"}; `galleries[q]` lists image names, repeats allowed.

    gt_boxes: `gt_boxes[q]` gives a box or None for each place of the gallery; without it the annotations do. option:
    "", "cws", "cbgm:K1,K2" or "cws+cbgm:K1,K2". settle(weights, outcomes) picks one of several equal matchings.
    """
    weighted, context = "cws" in option, [int(k) for k in option.partition("cbgm:")[2].split(",") if k]
    gt_of = {}
    for name, boxes, ids in zip(annotations.image_names, annotations.boxes, annotations.person_ids, strict=True):
        for box, person in zip(boxes, ids, strict=True):
            if person >= 0 and (name, int(person)) not in gt_of:
                gt_of[name, int(person)] = floats(box)
    kept = {name: [] for name in annotations.image_names}
    for row in range(len(gallery.scores)):
        if gallery.scores[row] >= threshold:
            kept[gallery.images[gallery.image_index[row]]].append(row)
    results = []
    for q in range(len(queries.image_names)) if only is None else only:
        met, count = {}, 0
        for place, name in enumerate(galleries[q]):
            gt_box = gt_of.get((name, int(queries.person_ids[q]))) if gt_boxes is None else gt_boxes[q][place]
            count += gt_box is not None
            if not kept[name] or name in met:
                continue
            rows = kept[name]
            sims = [float(v) for v in gallery.embeddings[rows] @ query.embeddings[q]]
            if weighted:
                sims = [v * float(gallery.scores[row]) for v, row in zip(sims, rows, strict=True)]
            met[name] = rows, sims, gt_box
        if context:
            rerank(met, q, gallery, query, queries, threshold, weighted, *context, settle)
        results.append(judge(met, count, gallery))
    return results


def judge(met, positives, gallery):
    """The numbers of one query from {name: (rows, similarities, gt_box)} and the number of places with a box."""
    labels, similarities, found = [], [], 0
    for rows, sims, gt_box in met.values():
        label = [0] * len(rows)
        if gt_box is not None:
            w, h = gt_box[2] - gt_box[0], gt_box[3] - gt_box[1]
            limit = min(0.5, w * h / ((w + 10) * (h + 10)))
            for place in sorted(range(len(rows)), key=lambda i: -sims[i]):
                if overlap(floats(gallery.boxes[rows[place]]), gt_box) >= limit:
                    label[place] = 1
                    found += 1
                    break
        labels += label
        similarities += sims
    ap = average_precision(labels, similarities) * found / positives if found else 0.0
    # equal similarities: the false positive is ranked first
    walk = sorted(zip(similarities, labels, strict=True), key=lambda pair: (-pair[0], pair[1]))
    first = next((place for place, pair in enumerate(walk, 1) if pair[1]), 0)
    return {"ap": float(ap), "first_rank": first, "positives": positives, "found": found}


def average_precision(labels, similarities):
    """Sum over falling thresholds of (recall gained) x (precision there); equal similarities are one threshold."""
    pairs = sorted(zip(similarities, labels, strict=True), reverse=True)
    total, true, true_before = 0.0, 0, 0
    for place, (similarity, label) in enumerate(pairs, 1):
        true += label
        if place == len(pairs) or pairs[place][0] != similarity:
            total += (true - true_before) * true / place
            true_before = true
    return total / sum(labels)


def plain_detection(gallery, annotations, threshold, labelled_only):
    """(recall, AP x recall) by the mutual row and column maximum rule."""
    labels, scores, found, positives = [], [], 0, 0
    for name, boxes, ids in zip(annotations.image_names, annotations.boxes, annotations.person_ids, strict=True):
        gt_boxes = [floats(b) for b, p in zip(boxes, ids, strict=True) if p >= 0 or not labelled_only]
        if labelled_only and not gt_boxes:
            continue
        positives += len(gt_boxes)
        rows = detections_of(gallery, name, threshold)
        iou = [[overlap(t, box) for _, box in rows] for t in gt_boxes]
        for j, (row, _) in enumerate(rows):
            matched = False
            for i in range(len(gt_boxes)):
                column = [iou[n][j] for n in range(len(gt_boxes))]
                is_column_best = column.index(max(column)) == i
                is_row_best = iou[i].index(max(iou[i])) == j
                matched = matched or (iou[i][j] >= 0.5 and is_column_best and is_row_best)
            labels.append(int(matched))
            scores.append(float(gallery.scores[row]))
            found += matched
    recall = found / positives if positives else 0.0
    ap = average_precision_score(labels, scores) * recall if found else 0.0
    return recall, float(ap)
