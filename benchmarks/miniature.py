"""The miniature's last step: a finished decoder, and the noise level its schedule ends at, put into its file.

    python benchmarks/miniature.py BASE 8 OUT VAE [VAE]

Of several VAEs that were trained on from one another it takes the mean (network interpolation, section 3.4 of
ESRGAN, Wang et al. 2018): the first errs less, the last is crisper. Their encoder has to be the one the base
was trained on: the latents, and every adapter, stay what they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from vfi_core.svd.load import load_svd, save_single_file
from vfi_core.training.estimates import check_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("sigma_min", type=float)
    parser.add_argument("out", type=Path)
    parser.add_argument("vae", type=Path, nargs="+")
    args = parser.parse_args()
    svd, vaes = load_svd(args.base), [load_file(path) for path in args.vae]
    for path, vae in zip(args.vae, vaes, strict=True):
        check_encoder(svd, vae, str(path))
    mean = {name: torch.stack([vae[name] for vae in vaes]).mean(0) for name in vaes[0]}
    svd.vae.load_state_dict(mean)
    svd.config = svd.config | {"sigma_min": args.sigma_min}
    save_single_file(svd, args.out)
    print(f"{args.out}: decoder of {' and '.join(map(str, args.vae))}, schedule down to {args.sigma_min:g}")


if __name__ == "__main__":
    main()
