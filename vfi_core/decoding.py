"""A segment's frames behind the decoder: in which windows they are decoded, and their colours.

Legend: t frames of a segment, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

WINDOW, OVERLAP = 8, 2  # frames decoded at once, neighbours seen on either side: fixed, whatever the memory


def decode_windows(frames: int) -> Iterator[tuple[slice, slice]]:
    """(frames to decode together, which of those to keep) for a temporal decoder, in order.

    Windows of 8 that see two neighbours more on either side, so that the result hangs on nothing but t.
    """
    for start in range(0, frames, WINDOW):
        low, high = max(0, start - OVERLAP), min(frames, start + WINDOW + OVERLAP)
        yield slice(low, high), slice(start - low, min(start + WINDOW, frames) - low)


def lock_colours(decoded: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """``decoded`` [t, H, W, 3] with its colours pulled onto the keyframes, [t, H, W, 3] in 0..1.

    Each channel's mean and deviation are moved so that the decoded keyframes would match the given ones
    ([H, W, 3] each), blended from the first correction to the last over the segment.
    """

    def statistics(picture: Tensor) -> tuple[Tensor, Tensor]:
        return picture.mean((0, 1)), picture.std((0, 1)).clamp_min(1e-3)

    weight = torch.linspace(0, 1, len(decoded), dtype=decoded.dtype, device=decoded.device).view(-1, 1, 1, 1)
    corrected = torch.zeros_like(decoded)
    for shown, given, share in ((decoded[0], first, 1 - weight), (decoded[-1], last, weight)):
        (mean, deviation), (wanted, spread) = statistics(shown), statistics(given.to(decoded))
        corrected += share * ((decoded - mean) * (spread / deviation) + wanted)
    return corrected.clamp(0, 1)
