import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

from psdiff_jax.data.detections import Detections
from psdiff_jax.data.records import Annotations, Queries

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def plain():
    """The module plain_evaluator.py, which is no test and on no path."""
    spec = importlib.util.spec_from_file_location("plain_evaluator", HERE / "evaluation/plain_evaluator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unit(x):
    x = np.asarray(x, np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_annotations(images):
    """Annotations from [(name, camera, frame, [(box, person id)])]."""
    return Annotations(
        image_names=tuple(name for name, *_ in images),
        sizes=np.full((len(images), 2), 400, np.int32),
        cameras=np.array([camera for _, camera, *_ in images], np.int32),
        frames=np.array([frame for _, _, frame, _ in images], np.int64),
        boxes=tuple(np.array([box for box, _ in persons], np.float32).reshape(-1, 4) for *_, persons in images),
        person_ids=tuple(np.array([person for _, person in persons], np.int64) for *_, persons in images),
    )


def make_queries(annotations, wanted):
    """Queries from [(image name, box, person id)]; camera and frame are those of the image."""
    at = [annotations.image_names.index(name) for name, *_ in wanted]
    return Queries(
        image_names=tuple(name for name, *_ in wanted),
        boxes=np.array([box for _, box, _ in wanted], np.float32).reshape(-1, 4),
        person_ids=np.array([person for *_, person in wanted], np.int64),
        cameras=annotations.cameras[at],
        frames=annotations.frames[at],
    )


def make_gallery(annotations, found, images=None):
    """Detections from [(image name, box, score, embedding)]."""
    images = tuple(images or annotations.image_names)
    return Detections(
        images=images,
        boxes=np.array([box for _, box, _, _ in found], np.float32).reshape(-1, 4),
        scores=np.array([score for _, _, score, _ in found], np.float32),
        embeddings=unit(np.array([e for *_, e in found])) if found else np.zeros((0, 2), np.float32),
        image_index=np.array([images.index(name) for name, *_ in found], np.int32),
    )


def make_query(queries, embeddings):
    images = tuple(dict.fromkeys(queries.image_names))
    return Detections(
        images=images,
        boxes=queries.boxes,
        scores=np.ones(len(queries.image_names), np.float32),
        embeddings=unit(embeddings),
        image_index=np.array([images.index(name) for name in queries.image_names], np.int32),
        person_id=np.asarray(queries.person_ids),
    )


def random_case(seed, images=10, identities=5, width=4, ties=False):
    """A small messy gallery: tiny boxes, unlabelled persons, a person twice in an image, misses, doubles, alarms."""
    rng = np.random.default_rng(seed)
    scenes, found, wanted = [], [], []
    # with `ties`, signed unit vectors with one entry: similarities are exactly -1, 0 or 1
    identity = unit(np.eye(width)[rng.integers(0, width, identities)] if ties else rng.normal(size=(identities, width)))
    for i in range(images):
        name, here = f"scene {i}.jpg", []
        for _ in range(rng.integers(0, 5)):
            corner, size = rng.integers(0, 80, 2), rng.integers(3, 60, 2)
            box = np.concatenate([corner, corner + size]).astype(np.float32)
            person = int(rng.integers(-1, identities))
            here.append((box, person))
            for _ in range(rng.integers(0, 3)):
                moved = box + rng.normal(0, rng.choice([0.5, 4.0]), 4)
                moved = np.concatenate([np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
                noise = 0 if ties and rng.random() < 0.5 else rng.normal(size=width) * 0.5
                seen = identity[person] + noise if person >= 0 else rng.normal(size=width)
                seen = np.sign(seen) * (np.abs(seen) == np.abs(seen).max()) if ties else seen
                found.append((name, moved, rng.choice([0.2, 0.6, rng.random()]), seen))
        for _ in range(rng.integers(0, 3)):
            corner = rng.integers(0, 80, 2)
            alarm = np.concatenate([corner, corner + rng.integers(5, 60, 2)])
            seen = np.eye(width)[rng.integers(width)] if ties else rng.normal(size=width)
            found.append((name, alarm, rng.random(), seen))
        scenes.append((name, int(rng.integers(0, 3)), int(rng.integers(0, 1000)), here))
    annotations = make_annotations(scenes)
    for name, _, _, here in scenes:
        wanted += [(name, box, person) for box, person in here if person >= 0 and rng.random() < 0.5]
    wanted += [(scenes[0][0], np.array([0, 0, 9, 9], np.float32), identities + 7)]  # a person whom no image shows
    order = rng.permutation(len(found))  # detections need not be sorted by image
    queries = make_queries(annotations, wanted)
    names = list(annotations.image_names)
    gallery = make_gallery(annotations, [found[i] for i in order], images=[names[i] for i in rng.permutation(images)])
    if not found:
        gallery = make_gallery(annotations, [(names[0], (0, 0, 5, 5), 0.9, np.ones(width))])
    embeddings = [identity[p] if p < identities else np.eye(width)[0] for *_, p in wanted]
    if not ties:
        embeddings = embeddings + rng.normal(size=(len(wanted), width)) * 0.3
    return types.SimpleNamespace(
        annotations=annotations, queries=queries, gallery=gallery, query=make_query(queries, embeddings)
    )


@pytest.fixture(scope="session")
def make():
    """The makers above under one name."""
    return types.SimpleNamespace(
        annotations=make_annotations,
        queries=make_queries,
        gallery=make_gallery,
        query=make_query,
        random_case=random_case,
        unit=unit,
    )
