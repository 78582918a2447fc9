"""An SVD's dimensions and the conditions it was trained under: in a checkpoint's metadata, or Stability's."""

from __future__ import annotations

from typing import Any

SVDConfig = dict[str, Any]

CONFIG_KEY = "svd_vfi_config"  # of a single file's metadata
METHODS = ("held", "fused", "bidirectional", "motion_prior")  # how the last keyframe is reached
REVERSED = "reversed"  # the one for the weights of a `Reversal`, which know no other
UNTOLD_GUIDANCE = (1.0, 3.0)  # (low, high) of a model that does not say, as SVD's own pipeline

# Stability's SVD. svd (14 frames) and svd_xt (25) have equal shapes: 25 where the file does not say.
FULL_SIZE: SVDConfig = {
    "unet": {
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "num_attention_heads": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 768,
        "num_frames": 25,
        "sample_size": 96,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 768,
        "scaling_factor": 0.18215,
        "force_upcast": True,
    },
    "image_encoder": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "projection_dim": 1024,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    },
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "frames": 25,
    "fps": 7,
    "motion_bucket_id": 127,
    "augmentation": 0.02,
    "size": [576, 1024],
}
