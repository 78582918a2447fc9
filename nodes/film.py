"""Where frames go out: a segment's latent into pictures, and the segments into one film."""

from __future__ import annotations

from comfy_api.latest import io

from ..vfi_core.sheet import contact_sheet
from ..vfi_core.timeline import film_of
from .host.film import SegmentKeyframes, decode_segment
from .schema import KeyframesType, colour_lock_input, keyframe_indices_output, rgb, schema


class Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIDecode",
            display_name="SVD VFI Decode",
            description="Decodes one segment in the keyframes' own resolution, keyframes exactly as given.",
            inputs=[
                io.Vae.Input("vae", tooltip="Of the Stable Video Diffusion checkpoint."),
                io.Latent.Input("latent", tooltip="From a sampler."),
                KeyframesType.Input("keyframes", tooltip="From 'SVD VFI Keyframes'."),
                colour_lock_input(),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, vae, latent, keyframes: SegmentKeyframes, colour_lock: bool) -> io.NodeOutput:
        return io.NodeOutput(decode_segment(vae, latent, keyframes, colour_lock))


class Assemble(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIAssemble",
            display_name="SVD VFI Assemble",
            description="Puts the segments together into one film, every keyframe once and exactly as given.",
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="From 'SVD VFI Decode', one batch per segment."),
                KeyframesType.Input("keyframes", tooltip="From 'SVD VFI Keyframes'."),
            ],
            outputs=[
                io.Image.Output(),
                io.Float.Output(display_name="fps"),
                keyframe_indices_output(),
            ],
        )

    @classmethod
    def execute(cls, images, keyframes: list[SegmentKeyframes]) -> io.NodeOutput:
        timeline = keyframes[0].timeline
        if len(images) != len(keyframes) or len(images) != len(timeline.segments):
            raise ValueError(
                f"{len(images)} batches of images and {len(keyframes)} keyframes came in for a film of "
                f"{len(timeline.segments)} segments; connect both from the same 'SVD VFI Keyframes'"
            )
        parts = {given.segment: part for part, given in zip(images, keyframes, strict=True)}
        film = film_of(timeline, keyframes[0].originals, lambda segment, *_: parts[segment])
        return io.NodeOutput(film, float(timeline.fps), list(timeline.shown))


class ContactSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIContactSheet",
            display_name="SVD VFI Contact Sheet",
            description="All frames of a film on one picture, keyframes framed in orange; a second film "
            "stands under the first, frame below frame.",
            search_aliases=["contact sheet", "film strip", "compare frames", "svd"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The film."),
                io.Image.Input(
                    "compare_with", optional=True, tooltip="Another film with as many frames, to compare."
                ),
                io.Int.Input(
                    "keyframe_indices",
                    optional=True,
                    force_input=True,
                    tooltip="Which frames are keyframes; from 'SVD VFI Interpolate' or 'SVD VFI Assemble'.",
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Frames in a row. 0: all of them, at most nine.",
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, images, columns, compare_with=None, keyframe_indices=None) -> io.NodeOutput:
        film = (frame for part in images for frame in rgb(part))
        below = (frame for part in compare_with for frame in rgb(part)) if compare_with else None
        return io.NodeOutput(contact_sheet(film, keyframe_indices or (), columns[0] or None, below)[None])
