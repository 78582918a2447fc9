"""Where frames come in: keyframes onto a timeline, and what the model is told about each segment."""

from __future__ import annotations

from comfy_api.latest import io

from ..vfi_core.cuts import skipped_gaps
from ..vfi_core.timeline import (
    Timeline,
    check_reseeded,
    even_timeline,
    parse_positions,
    parse_reseed,
    seed_of,
)
from .host.film import SegmentKeyframes, split
from .host.pictures import condition
from .schema import (
    SIZES,
    AdapterType,
    KeyframesType,
    advanced,
    clip_frames_input,
    conditions,
    fps_input,
    gather,
    loop_input,
    model_size,
    percent_inputs,
    picture_inputs,
    refresh_input,
    schema,
    seed_input,
    strength_input,
    timeline_inputs,
)


class Keyframes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIKeyframes",
            display_name="SVD VFI Keyframes",
            description="Places still frames on a timeline. Of everything behind it there is one per segment "
            "between two keyframes, so the nodes that follow run once for each.",
            inputs=[
                io.Vae.Input("vae", tooltip="Of the Stable Video Diffusion checkpoint."),
                *picture_inputs(),
                AdapterType.Input(
                    "adapter",
                    optional=True,
                    tooltip="Gives the trained length, size and frame rate for the zeros.",
                ),
                io.Int.Input(
                    "in_betweens",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Frames generated in every gap. 0: as many as the model was trained with.",
                ),
                advanced(
                    io.String.Input(
                        "positions",
                        default="",
                        tooltip="Frame numbers of the keyframes, such as 0, 12, 40. Empty: evenly apart.",
                    )
                ),
                fps_input("fps", "Frames a second of the film. 0: as the model was trained."),
                io.Combo.Input(
                    "size",
                    options=SIZES,
                    tooltip="What the model works at: the short side it was trained on, or the pictures' own "
                    "size. The film has the pictures' size either way.",
                ),
                loop_input(),
                seed_input("Of the first segment; each following one adds 1."),
                *timeline_inputs(),
                clip_frames_input(
                    "Frames drawn at once: a shorter segment is thinned out of so many when it is decoded, a "
                    "longer one is drawn whole. 0: as the model was trained."
                ),
            ],
            outputs=[
                KeyframesType.Output(display_name="keyframes", is_output_list=True),
                io.Latent.Output(is_output_list=True),
                io.Int.Output(display_name="seeds", is_output_list=True),
            ],
        )

    @classmethod
    def execute(
        cls,
        vae,
        images,
        in_betweens,
        positions,
        fps,
        size,
        loop,
        seed,
        interpolation_states=None,
        reseed="",
        first_keyframe=0,
        clip_frames=0,
        last_image=None,
        adapter=None,
    ) -> io.NodeOutput:
        images, training = gather(images, last_image), conditions(vae, adapter)
        reseeded, skipped = parse_reseed(reseed), skipped_gaps(interpolation_states, len(images) - 1 + loop)
        fps = fps or training["fps"]
        count = in_betweens or training["frames"] - 2
        if positions.strip():
            closing = count + 1 if loop else None
            places = parse_positions(positions, len(images))
            timeline = Timeline(places, closing, fps, skipped, first_keyframe)
        else:
            timeline = even_timeline(len(images), count, fps, loop, skipped, first_keyframe)
        if not timeline.segments:
            raise ValueError(
                "every gap is skipped, and nothing is left to draw; connect 'SVD VFI Interpolate', which "
                "holds the keyframes there, or skip fewer"
            )
        check_reseeded(timeline, reseeded)
        longest = clip_frames or training["frames"]
        segments = list(split(vae, images, timeline, model_size(images, size, training), training, longest))
        seeds = [seed_of(s.segment, seed, reseeded) for s in segments]
        return io.NodeOutput(segments, [s.latent for s in segments], seeds)


class Conditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIConditioning",
            display_name="SVD VFI Conditioning",
            description="Tells the model about a segment's keyframes, and the condition encoder too.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="Of the Stable Video Diffusion checkpoint."),
                io.Vae.Input("vae", tooltip="Of the Stable Video Diffusion checkpoint."),
                KeyframesType.Input("keyframes", tooltip="From 'SVD VFI Keyframes'."),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="The condition encoder, from 'SVD VFI Apply Adapter'.",
                ),
                strength_input("strength", "the condition encoder acts"),
                *percent_inputs("the condition encoder"),
                refresh_input(
                    "Run the condition encoder at every n-th step, reuse its features between: faster, less "
                    "exact. Only for adapters that read the keyframes alone."
                ),
                advanced(
                    fps_input("fps", "Frame rate the motion should look like. 0: as the model was trained.")
                ),
                advanced(
                    io.Int.Input(
                        "motion_bucket_id",
                        default=0,
                        min=0,
                        max=1023,
                        tooltip="SVD's amount of motion. 0: as the model was trained.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "augmentation_level",
                        default=-1.0,
                        min=-1.0,
                        max=10.0,
                        step=0.01,
                        tooltip="Noise on the pictures SVD is shown. -1: as the model was trained.",
                    )
                ),
                seed_input("Of that noise; connect the segment's seed."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip_vision,
        vae,
        keyframes: SegmentKeyframes,
        strength,
        start_percent,
        end_percent,
        encoder_refresh,
        fps,
        motion_bucket_id,
        augmentation_level,
        seed,
        control_net=None,
    ) -> io.NodeOutput:
        trained = dict(keyframes.training) | dict(
            getattr(getattr(control_net, "adapter", None), "training", {})
        )
        told = trained | {
            "fps": fps or trained["fps"],
            "motion_bucket_id": motion_bucket_id or trained["motion_bucket_id"],
            "augmentation": trained["augmentation"] if augmentation_level < 0 else augmentation_level,
        }
        return io.NodeOutput(
            *condition(
                clip_vision,
                vae,
                keyframes.pictures,
                keyframes.latents,
                control_net,
                told,
                seed,
                strength,
                start_percent,
                end_percent,
                encoder_refresh,
            )
        )
