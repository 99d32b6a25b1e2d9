"""An annotated copy of a video: the person whom a search found has a box wherever they appear. PyAV, extra `video`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from psdiff_jax.errors import InputError
from psdiff_jax.files import replacing
from psdiff_jax.inference.appearances import Appearance, Sight
from psdiff_jax.report.drawing import PREDICTED, frame, tag

TIME_BASE = Fraction(1, 90_000)  # MPEG's clock: every usual frame rate is a whole number of its ticks


def annotate_video(
    path: str | Path, frames: Iterable[tuple[float, np.ndarray]], appearances: Sequence[Appearance]
) -> int:
    """Writes frames (seconds, uint8 [H,W,3] RGB, in order and of one size) with boxes and similarities as H.264 in MP4.

    appearances: of this video. Between two sights the box moves evenly. Frames keep their times; an odd last row or
    column is left out, which the format requires.

    Returns:
      the number of frames written.

    Raises:
      InputError: PyAV is missing, or there is no frame, or the file cannot be written.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise InputError(f"{path}: videos need PyAV; pip install 'psdiff-jax[video]'") from error
    count = 0
    try:
        with replacing(Path(path)) as temporary, av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(30), options={"crf": "20"})
            stream.time_base = stream.codec_context.time_base = TIME_BASE
            stream.pix_fmt = "yuv420p"
            for time, image in frames:
                if count == 0:
                    stream.height, stream.width = (side - side % 2 for side in image.shape[:2])
                drawn = draw(image, [sight for each in appearances if (sight := sight_at(each, time))])
                picture = av.VideoFrame.from_ndarray(drawn[: stream.height, : stream.width], format="rgb24")
                picture.pts, picture.time_base = round(time / TIME_BASE), TIME_BASE
                container.mux(stream.encode(picture))
                count += 1
            if not count:
                raise InputError(f"{path}: there is no frame to annotate")
            container.mux(stream.encode(None))
    except (FFmpegError, OSError) as error:
        raise InputError(f"{path}: cannot be written ({error}); choose another folder") from error
    return count


def sight_at(appearance: Appearance, time: float) -> Sight | None:
    """Where the person is at `time`, between two sights at the mean of their boxes and similarities by time; None
    outside the appearance."""
    if not appearance.start <= time <= appearance.end:
        return None
    times = [sight.time for sight in appearance.sights]
    rows = np.asarray([[*sight.box, sight.similarity] for sight in appearance.sights])
    x1, y1, x2, y2, similarity = (float(np.interp(time, times, column)) for column in rows.T)
    return Sight(time, (x1, y1, x2, y2), similarity)


def draw(image: np.ndarray, sights: Sequence[Sight]) -> np.ndarray:
    """A copy of the frame with a box and the similarity of each sight."""
    canvas = np.ascontiguousarray(image).copy()
    for sight in sights:
        frame(canvas, np.asarray(sight.box), PREDICTED)
    for sight in sights:
        canvas = tag(canvas, f"{sight.similarity:.2f}", np.asarray(sight.box), PREDICTED)
    return canvas
