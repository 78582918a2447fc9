"""What a person may choose of a film, and which choices go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import METHODS, REVERSED
from ..reversal import Reversal
from ..samplers import IN_TURN, linear_guidance, triangle_guidance
from ..weights import Weights

GUIDANCE = {"triangle": triangle_guidance, "linear": linear_guidance}


@dataclass(frozen=True)
class Settings:
    """What a person may choose. None takes the adapter's value, or the base's where the adapter has none.

    in_betweens      generated frames in each gap
    steps            sampling steps
    seed             of the first segment; each following one adds 1
    guidance         (low, high); 1 is no guidance
    guidance_shape   `triangle`: low at both keyframes, high half-way; `linear`: SVD's own ramp
    fps              frames a second the motion should look like; SVD's id is fps - 1
    augmentation     deviation of the noise on the concatenated condition, in pixels of -1..1
    size             (H, W) the model works at, multiples of 64
    churn            S_churn of Karras et al. (2022): noise put back at every step, 0 for none; not for the
                     methods that put it back by themselves
    colour_lock      pull the colours of every frame onto the keyframes', see `lock_colours`
    clip_frames      frames drawn at once at most, see `split_into_clips`
    method           `held`: the mask holds both keyframes. For weights that never learned to reach the last
                     one, at twice the time: `fused`, held and cross-faded with the film from the last one
                     backwards (`fuse_directions`); `bidirectional`, from either one in turn. At 2.6 times:
                     `motion_prior`, in turn too, begun with the motion from the first (`sample_motion_prior`)
                     With the weights of a `Reversal`, and only with them: `reversed` (`sample_reinjecting`)
    """

    in_betweens: int | None = None
    steps: int = 25
    seed: int = 0
    guidance: tuple[float, float] | None = None
    guidance_shape: Literal["triangle", "linear"] = "triangle"
    fps: float | None = None
    motion_bucket_id: int | None = None
    augmentation: float | None = None
    size: tuple[int, int] | None = None
    churn: float = 0.0
    colour_lock: bool = False
    clip_frames: int | None = None
    method: Literal["held", "fused", "bidirectional", "motion_prior", "reversed"] = "held"

    def __post_init__(self) -> None:
        if self.in_betweens is not None and self.in_betweens < 1:
            raise ValueError(f"in-betweens is {self.in_betweens}; use at least 1")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; use at least 1")
        if self.clip_frames is not None and self.clip_frames < 3:
            raise ValueError(f"clip frames is {self.clip_frames}; use at least 3")
        if self.method not in (known := (*METHODS, REVERSED)):
            raise ValueError(f"method is {self.method!r}; use one of {', '.join(known)}")
        if not 0 <= self.churn < float("inf"):
            raise ValueError(f"churn is {self.churn}; use 0 or more")
        if self.churn and self.method in (*IN_TURN, REVERSED):
            raise ValueError(f"the method {self.method} has no churn; use 0, or the method held or fused")
        if self.guidance_shape not in GUIDANCE:
            raise ValueError(f"guidance shape is {self.guidance_shape!r}; use one of {', '.join(GUIDANCE)}")
        if self.size is not None and any(s < 64 or s % 64 for s in self.size):
            raise ValueError(
                f"size {self.size[1]}x{self.size[0]} does not fit the model; use multiples of 64"
            )


def method_of(weights: Weights | None) -> Literal["held", "reversed"]:
    """The method for these weights where a person names none."""
    return REVERSED if isinstance(weights, Reversal) else "held"


def check_method(method: str, weights: Weights | None) -> None:
    """Refuse tuned weights with another method than theirs, and that method without them."""
    if isinstance(weights, Reversal) and method != REVERSED:
        raise ValueError(f"{weights.name} is for the method '{REVERSED}' alone, not for '{method}'")
    if method == REVERSED and not isinstance(weights, Reversal):
        raise ValueError(
            f"the method '{REVERSED}' needs the weights of Generative Inbetweening; give them as the adapter"
        )
