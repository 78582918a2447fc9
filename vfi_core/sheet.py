"""Many frames on one picture: the contact sheet, and films side by side on it.

Legend: n frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST = 256  # pixels of a frame's longer side
GAP = 4  # pixels between frames
GROUND, MARK = (0.094, 0.094, 0.094), (1.0, 0.588, 0.0)  # dark grey, orange


def contact_sheet(
    film: Iterable[Tensor],
    known: Iterable[int] = (),
    columns: int | None = None,
    below: Iterable[Tensor] | None = None,
) -> Tensor:
    """All frames on one picture [H', W', 3] in 0..1, row by row, the known ones framed in orange.

    film     n frames [H, W, 3] in 0..1; larger ones than 256 pixels are shrunk, smaller ones stay as they are
    known    indices of the keyframes
    columns  frames in a row; by default all of them, at most nine
    below    another film of the same length, each of its frames under the same frame of the first
    Raises ValueError for no frame at all, for films of two lengths, for columns below 1.
    """
    rows = [[_small(frame) for frame in frames] for frames in (film, below) if frames is not None]
    lengths = [len(row) for row in rows]
    if not lengths[0]:
        raise ValueError("the film has no frames; a contact sheet needs one or more")
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the two films have {lengths[0]} and {lengths[1]} frames; compare films of one length"
        )
    columns = min(lengths[0], 9) if columns is None else columns
    if columns < 1:
        raise ValueError(f"{columns} columns hold no frame; use 1 or more")
    height, width = (max(frame.shape[side] for row in rows for frame in row) + GAP for side in (0, 1))
    lines = -(-lengths[0] // columns) * len(rows)
    sheet = torch.tensor(GROUND).expand(lines * height + GAP, columns * width + GAP, 3).clone()
    marked = set(known)
    for line, row in enumerate(rows):
        for i, frame in enumerate(row):
            y, x = (i // columns * len(rows) + line) * height + GAP, i % columns * width + GAP
            h, w = frame.shape[:2]
            if i in marked:
                sheet[y - 3 : y + h + 3, x - 3 : x + w + 3] = torch.tensor(MARK)
            sheet[y : y + h, x : x + w] = frame
    return sheet


def _small(frame: Tensor) -> Tensor:
    height, width = frame.shape[:2]
    scale = LARGEST / max(height, width)
    if scale >= 1:
        return frame.float().cpu()
    size = max(1, round(height * scale)), max(1, round(width * scale))
    picture = frame.float().cpu().movedim(-1, 0)[None]
    small = F.interpolate(picture, size, mode="bicubic", antialias=True, align_corners=False)
    return small[0].movedim(0, -1).clamp(0, 1)
