"""Where a film's scenes change, so that nothing is drawn between two of them."""

from __future__ import annotations

from comfy_api.latest import io

from ..vfi_core.cuts import THRESHOLD, InterpolationStates, find_cuts, parse_gaps
from .schema import StatesType, advanced, rgb, schema


class SceneCuts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SVDVFISceneCuts",
            display_name="SVD VFI Scene Cuts",
            description="Finds where a new scene begins and marks those gaps to be left as they are, here "
            "and in other packs' frame interpolation.",
            search_aliases=["scene cut", "scene change", "shot detection", "skip list", "vfi", "svd"],
            inputs=[
                io.Image.Input("images", tooltip="The frames in order."),
                io.Float.Input(
                    "threshold",
                    default=THRESHOLD,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much has to change for a cut: lower finds more of them. 1: none.",
                ),
                advanced(
                    io.String.Input(
                        "skip",
                        default="",
                        tooltip="More gaps to leave, by the number of the frame before each, such as 3, 17.",
                    )
                ),
            ],
            outputs=[
                StatesType.Output(display_name="interpolation_states"),
                io.Int.Output(
                    display_name="cuts",
                    is_output_list=True,
                    tooltip="The last frame of every scene but the last one.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, threshold: float, skip: str) -> io.NodeOutput:
        cuts = find_cuts(rgb(images), threshold)
        gaps = sorted({*cuts, *parse_gaps(skip, len(images) - 1)})
        return io.NodeOutput(InterpolationStates(gaps), cuts)
