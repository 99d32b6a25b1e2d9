"""Writes small folders in MOTChallenge's format."""

from pathlib import Path

import cv2
import numpy as np

SEQINFO = (
    "[Sequence]\nname={name}\nimDir=img1\nframeRate=25\nseqLength={length}\nimWidth={width}\nimHeight={height}\n"
    "imExt=.jpg\n\n"
)

# MOT15: 10 columns, here with CRLF, spaces, decimals and an empty line. Images 60 x 40 of frames 1, 2, 3, 7, 8, 9.
OLD = "ADL 1"
OLD_FRAMES = (1, 2, 3, 7, 8, 9)
OLD_ROWS = (
    "1,5,11,6,10,20,1,-1,-1,-1\r\n"
    "1,9,1,1,10,10,0,-1,-1,-1\r\n"  # ignored
    " 2 , 5 , 12.5 , 6 , 10 , 20.25 , 1 , -5.0 , 11.9 , 0.7 \r\n"
    "\r\n"
    "3,5,1,1,10,20,1,-1,-1,-1\r\n"
    "7,5,21,11,10,20,1,-1,-1,-1\r\n"  # 3 images before the cut, 1 after it
    "3,9,41,6,10,20,1,-1,-1,-1\r\n"  # 1 before, 2 after
    "7,9,41,6,10,20,1,-1,-1,-1\r\n"
    "8,9,31,6,10,20,1,-1,-1,-1\r\n"
    "9,2,5,5,8,16,1,-1,-1,-1\r\n"  # 1 before, 1 after, in no order
    "2,2,5,5,8,16,1,-1,-1,-1\r\n"
    "8,30,2,2,8,16,1,-1,-1,-1\r\n"  # in one image
    "8,-1,12,2,8,16,1,-1,-1,-1\r\n"  # unlabelled
    "7,4,1,1,5,10,1,-1,-1,-1\r\n"
    "9,4,51,31,20,20,1,-1,-1,-1\r\n"  # over the border
    "9,77,5,5,0,10,1,-1,-1,-1"  # no area, no line end
)
# From MOT16 on: 9 columns. Images 80 x 50 of frames 1 to 3, 64 x 48 of frame 4.
NEW = "Straße-02"
NEW_ROWS = (
    "1,5,2,2,10,20,1,1,0.9\n"
    "2,5,3,2,10,20,1,1,0.2\n"
    "3,8,11,2,10,20,1,1,1\n"
    "4,8,55,2,10,20,1,1,0.5\n"
    "3,6,2,2,30,20,1,3,1\n"  # a car
    "4,6,2,2,30,20,0,3,1\n"
    "3,9,200,1,10,10,1,1,0\n"  # annotated beyond the border, nothing of it visible
)


def write_image(path: Path, height: int = 40, width: int = 60, value: int = 99) -> Path:
    """A uniform image; cv2.imwrite does not report errors, so the bytes are written here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.full((height, width, 3), value, np.uint8))[1].tobytes())
    return path


def sequence(folder: Path, frames: dict[int, tuple[int, int]], rows: str | None, seqinfo: str | None = "right") -> Path:
    """A sequence with images of frames {number: (height, width)}; rows: of gt.txt, None for no file."""
    for number, (height, width) in frames.items():
        write_image(folder / "img1" / f"{number:06d}.jpg", height, width, 20 * number)
    if rows is not None:
        (folder / "gt").mkdir(exist_ok=True)
        (folder / "gt" / "gt.txt").write_bytes(rows.encode())
    if seqinfo == "right":
        height, width = next(iter(frames.values()))
        seqinfo = SEQINFO.format(name=folder.name, length=len(frames), width=width, height=height)
    if seqinfo is not None:
        (folder / "seqinfo.ini").write_text(seqinfo)
    return folder


def mot_tree(root: Path) -> Path:
    """The two sequences above, and one without ground truth."""
    sequence(root / OLD, dict.fromkeys(OLD_FRAMES, (40, 60)), OLD_ROWS)
    sequence(root / NEW, {1: (50, 80), 2: (50, 80), 3: (50, 80), 4: (48, 64)}, NEW_ROWS)
    sequence(root / "XYZ-test", {1: (40, 60)}, None)
    return root
