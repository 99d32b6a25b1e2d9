"""The street as a video: people move steadily, boxes are where they are, and the folder is a MOTChallenge sequence."""

from pathlib import Path

import numpy as np

from psdiff_jax.datasets.mot.reader import read
from psdiff_jax.datasets.synthetic_street import StreetOptions
from psdiff_jax.datasets.synthetic_street.walking import street_video

from ..scripts.loading import load_script

OPTIONS = StreetOptions.preset("tiny", test_identities=4)


def test_people_walk_steadily_and_come_again():
    frames = list(street_video(OPTIONS, camera_number=1, frames=80, rate=3.0, crossings=2))
    where: dict[int, dict[int, np.ndarray]] = {}
    for index, frame in enumerate(frames):
        assert frame.image.shape == (160, 256, 3) and frame.image.dtype == np.uint8
        assert (frame.boxes[:, 2:] > frame.boxes[:, :2]).all() and frame.boxes.min(initial=0) >= 0
        for person, box in zip(frame.person_ids.tolist(), frame.boxes, strict=True):
            assert index not in where.setdefault(person, {})  # nobody is twice in a frame
            where[person][index] = box
    assert set(where) == {0, 1, 2, 3}
    for boxes in where.values():
        inside = [i for i in boxes if 2 < boxes[i][0] and boxes[i][2] < 254]
        steps = [boxes[i + 1][[0, 2]].mean() - boxes[i][[0, 2]].mean() for i in inside if i + 1 in inside]
        assert np.abs(steps).max() < 60 and np.abs(steps).mean() > 0.5


def test_a_frame_differs_from_the_next_where_people_are():
    first, second, *_ = street_video(OPTIONS, camera_number=1, frames=4, rate=0.1)
    changed = np.abs(first.image.astype(int) - second.image).max(-1) > 40
    for boxes in (first.boxes, second.boxes):
        for x1, y1, x2, y2 in boxes.astype(int):
            changed[max(0, y1 - 25) : y2 + 25, max(0, x1 - 40) : x2 + 40] = False  # shadows, too
    assert changed.mean() < 0.01  # those without a box may move there
    again = next(iter(street_video(OPTIONS, camera_number=1, frames=4, rate=0.1)))
    np.testing.assert_array_equal(again.image, first.image)


def test_the_script_writes_sequences_that_the_reader_takes(tmp_path: Path, capsys):
    script = load_script("draw_street_video")
    sizes = ["--sequences", "2", "--frames", "12", "--rate", "1", "--identities", "4", "--crossings", "1"]
    script.main(["--out", str(tmp_path), *sizes])
    assert capsys.readouterr().out.count("12 frames") == 2
    dataset = read(tmp_path, test_sequences="street-01,street-02")
    assert not [finding for finding in dataset.findings if finding.level != "known"], dataset.findings
    assert len(dataset.gallery) == 24 and {image.camera for image in dataset.gallery} == {1, 2}
    options = StreetOptions.preset("tiny", test_identities=4)
    frames = list(street_video(options, 0, 12, 1.0, crossings=1))
    for image, frame in zip(dataset.gallery, frames, strict=False):
        np.testing.assert_allclose(image.boxes, frame.boxes, atol=1e-3)
