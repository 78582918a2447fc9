"""diffusers' SVD U-Net with its decoder deleted: the trunk of the condition encoder."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false
# diffusers annotates only its tuple returns, and torch every submodule as Tensor | Module.

from __future__ import annotations

import copy

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn


class Trunk(nn.Module):
    """The encoder half of `UNetSpatioTemporalConditionModel`, with an addition after conv_in.

    share  keep the U-Net's own parameter tensors (for LoRA, which adds to them); otherwise copy them
    """

    def __init__(self, unet: UNetSpatioTemporalConditionModel, share: bool) -> None:
        super().__init__()
        names = (
            "conv_in",
            "time_proj",
            "time_embedding",
            "add_time_proj",
            "add_embedding",
            "down_blocks",
            "mid_block",
        )
        for name in names:
            part = getattr(unet, name)
            memo = {id(p): p for p in part.parameters()} if share else {}
            setattr(self, name, copy.deepcopy(part, memo))

    def forward(
        self, x: Tensor, stem: Tensor, *, c_noise: Tensor, context: Tensor, ids: Tensor, frames: int
    ) -> list[Tensor]:
        """The skip tensors, then the middle one, each [(b t), c, h, w].

        x, stem  [(b t), 8, h, w] and [(b t), C0, h, w], added to conv_in's output
        c_noise  [b], the U-Net's timestep; context [b, n, d], the image embedding; ids [b, 3], added time ids
        """
        # The lines of UNetSpatioTemporalConditionModel.forward, stages 1 to 4, and the stem.
        embedding = self.time_embedding(self.time_proj(c_noise).to(x.dtype))
        added = self.add_time_proj(ids.flatten()).reshape(ids.shape[0], -1).to(x.dtype)
        embedding = (embedding + self.add_embedding(added)).repeat_interleave(frames, dim=0)
        context = context.repeat_interleave(frames, dim=0)
        image_only = torch.zeros(ids.shape[0], frames, dtype=x.dtype, device=x.device)

        x = self.conv_in(x) + stem
        features = [x]
        for block in self.down_blocks:
            crossed = (
                {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
            )
            x, skips = block(hidden_states=x, temb=embedding, image_only_indicator=image_only, **crossed)
            features.extend(skips)
        middle = self.mid_block(
            hidden_states=x, temb=embedding, encoder_hidden_states=context, image_only_indicator=image_only
        )
        return [*features, middle]
