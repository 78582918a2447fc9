"""Where frames are filled: the sampler of this pack, and the whole way in one node."""

from __future__ import annotations

from comfy_api.latest import io

from ..vfi_core.cuts import skipped_gaps
from ..vfi_core.samplers import IN_TURN
from ..vfi_core.timeline import check_reseeded, even_timeline, parse_reseed, resampled_timeline
from .host.apply import apply_adapter
from .host.film import Drawing, interpolate
from .host.kept import kept_frames
from .host.sample import GUIDERS, SAMPLERS, SCHEDULERS, both_ways, fill, segment_guider
from .schema import (
    SIZES,
    AdapterType,
    advanced,
    clip_frames_input,
    colour_lock_input,
    conditions,
    fps_input,
    gather,
    keyframe_indices_output,
    loop_input,
    model_size,
    picture_inputs,
    refresh_input,
    schema,
    seed_input,
    timeline_inputs,
)


def cfg_input(name: str, where: str) -> io.Input:
    return io.Float.Input(
        name,
        default=0.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip=f"Guidance {where}. 0: as the model was trained; 1: none.",
    )


def told_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="From 'SVD VFI Apply Adapter'."),
        io.Conditioning.Input("positive", tooltip="From 'SVD VFI Conditioning'."),
        io.Conditioning.Input("negative", tooltip="From 'SVD VFI Conditioning'."),
    ]


def sampling_inputs() -> list[io.Input]:
    return [
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampling steps for each segment."),
        *guidance_inputs(),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLERS,
            default="euler",
            tooltip="Every one keeps the keyframes; euler, heun and dpmpp_2m are the ones to start with.",
        ),
        io.Combo.Input("scheduler", options=SCHEDULERS, default="karras", tooltip="SVD was made for karras."),
    ]


def guidance_inputs() -> list[io.Input]:
    return [
        cfg_input("cfg_ends", "on the frames next to the keyframes"),
        cfg_input("cfg_middle", "half-way between two keyframes"),
    ]


def method_input() -> io.Input:
    return io.Combo.Input(
        "method",
        options=list(GUIDERS),
        default="held",
        optional=True,  # graphs saved before it was there go on to run
        tooltip="held: both keyframes hold while the frames between are drawn. For SVD without an adapter, "
        "at twice the time: fused, drawn from both ends and cross-faded; bidirectional, from either in turn; "
        "at 2.6 times, motion_prior: in turn too, begun with the motion from the first. Only for Generative "
        "Inbetweening's weights, at seven times: reversed, the mean of both directions.",
    )


def churn_input() -> io.Input:
    return advanced(
        io.Float.Input(
            "churn",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=True,
            tooltip="Noise put back at every step (S_churn), for euler, heun and dpm_2. 0: none.",
        )
    )


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFISampler",
            display_name="SVD VFI Sampler",
            description="Fills the frames between the keyframes, with guidance that is low at them and high "
            "half-way. Any other sampler node fills the same latent.",
            inputs=[
                *told_inputs(),
                io.Latent.Input("latent", tooltip="From 'SVD VFI Keyframes'."),
                seed_input("Of the noise; connect the segment's seed."),
                *sampling_inputs(),
                method_input(),
                churn_input(),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent,
        seed,
        steps,
        cfg_ends,
        cfg_middle,
        sampler_name,
        scheduler,
        method="held",
        churn=0.0,
    ) -> io.NodeOutput:
        cfg = (cfg_ends, cfg_middle)
        return io.NodeOutput(
            fill(model, positive, negative, latent, seed, steps, cfg, sampler_name, scheduler, method, churn)
        )


class Guider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIGuider",
            display_name="SVD VFI Guider",
            description="Guidance and method of 'SVD VFI Sampler', for ComfyUI's SamplerCustomAdvanced.",
            inputs=[
                *told_inputs(),
                *guidance_inputs(),
                method_input(),
            ],
            outputs=[io.Guider.Output()],
        )

    @classmethod
    def execute(cls, model, positive, negative, cfg_ends, cfg_middle, method="held") -> io.NodeOutput:
        return io.NodeOutput(segment_guider(model, positive, negative, (cfg_ends, cfg_middle), method))


class BidirectionalSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIBidirectionalSampler",
            display_name="SVD VFI Bidirectional Sampler",
            description="The steps of the methods 'bidirectional' and 'motion_prior' for ComfyUI's "
            "SamplerCustomAdvanced.",
            inputs=[
                io.Combo.Input(
                    "method",
                    options=list(IN_TURN),
                    default="bidirectional",
                    optional=True,  # graphs saved before it was there go on to run
                    tooltip="The same as that of 'SVD VFI Guider'.",
                )
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, method="bidirectional") -> io.NodeOutput:
        return io.NodeOutput(both_ways(method))


class Interpolate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFIInterpolate",
            display_name="SVD VFI Interpolate",
            description="Still frames in, the film between them out: every node of this pack in one.",
            inputs=[
                io.Model.Input("model", tooltip="Stable Video Diffusion, without 'SVD VFI Apply Adapter'."),
                io.ClipVision.Input("clip_vision", tooltip="Of the same checkpoint."),
                io.Vae.Input("vae", tooltip="Of the same checkpoint."),
                *picture_inputs(),
                AdapterType.Input("adapter", optional=True, tooltip="From one of this pack's loaders."),
                io.Int.Input(
                    "multiplier",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Frames for every keyframe: 2 puts one between each two. 0: as many as the model "
                    "was trained with.",
                ),
                fps_input(
                    "source_fps", "Frame rate of the keyframes, where they are frames of a video. 0: unknown."
                ),
                fps_input(
                    "target_fps",
                    "Frame rate of the film, instead of a multiplier; needs source_fps. 0: not used.",
                ),
                seed_input("Of the first segment; each following one adds 1."),
                *sampling_inputs(),
                advanced(io.Combo.Input("size", options=SIZES, tooltip="What the model works at.")),
                loop_input(),
                refresh_input("Run the condition encoder at every n-th step, reuse its features between."),
                advanced(colour_lock_input()),
                method_input(),
                *timeline_inputs(),
                clip_frames_input(
                    "Frames drawn at once at most: few are thinned out of so many, more drawn in parts. 0: "
                    "as the model was trained."
                ),
                churn_input(),
            ],
            outputs=[io.Image.Output(), io.Float.Output(display_name="fps"), keyframe_indices_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip_vision,
        vae,
        images,
        multiplier,
        source_fps,
        target_fps,
        seed,
        steps,
        cfg_ends,
        cfg_middle,
        sampler_name,
        scheduler,
        size,
        loop,
        encoder_refresh,
        colour_lock,
        method="held",
        interpolation_states=None,
        reseed="",
        first_keyframe=0,
        clip_frames=0,
        churn=0.0,
        last_image=None,
        adapter=None,
    ) -> io.NodeOutput:
        images, training = gather(images, last_image), conditions(vae, adapter)
        reseeded, skipped = parse_reseed(reseed), skipped_gaps(interpolation_states, len(images) - 1 + loop)
        told = loop, skipped, first_keyframe
        if target_fps:
            if not source_fps:
                raise ValueError(
                    f"target_fps is {target_fps:g}, but source_fps is 0; say what rate the keyframes have"
                )
            timeline = resampled_timeline(len(images), source_fps, target_fps, *told)
        else:
            multiplier = multiplier or training["frames"] - 1
            fps = source_fps * multiplier if source_fps else training["fps"]
            timeline = even_timeline(len(images), multiplier - 1, fps, *told)
        check_reseeded(timeline, reseeded)
        patched, control = (model, None) if adapter is None else apply_adapter(model, adapter)
        drawing = Drawing(
            patched,
            control,
            clip_vision,
            vae,
            training,
            model_size(images, size, training),
            steps,
            (cfg_ends, cfg_middle),
            sampler_name,
            scheduler,
            encoder_refresh,
            colour_lock,
            method,
            clip_frames or training["frames"],
            churn,
        )
        kept = kept_frames(model, cls.hidden.unique_id if cls.hidden else None)
        film = interpolate(drawing, images, timeline, seed, reseeded, kept, drawing.identity(adapter))
        return io.NodeOutput(film, float(timeline.fps), list(timeline.shown))
