"""The nodes: a schema and one call each.

    loaders      a checkpoint and its adapter come in
    cuts         where a film's scenes change
    keyframes    frames come in: onto a timeline, and into what the model is told
    fill         frames are filled
    film         frames go out
    samples      example frames for the workflows

`host` is the only room that knows ComfyUI's insides.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import cuts, fill, film, keyframes, loaders, samples


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            loaders.LoadCheckpoint,
            loaders.LoadAdapter,
            loaders.ApplyAdapter,
            keyframes.Keyframes,
            keyframes.Conditioning,
            fill.Sampler,
            film.Decode,
            film.Assemble,
            fill.Interpolate,
            film.ContactSheet,
            fill.Guider,
            fill.BidirectionalSampler,
            cuts.SceneCuts,
        ]


async def comfy_entrypoint() -> Extension:
    loaders.register_folder()
    samples.offer_samples()
    return Extension()
