"""Makes the workflows' thumbnails anew: every frame of each one's own film, the keyframes framed in orange.

    ComfyUI/.venv/bin/python tests/host/thumbnails.py <ComfyUI> [workflow ...]

Nobody has SVD-XT's or FILM's weights here: what they would draw is left grey.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import sys
import tempfile
from pathlib import Path

import served
import torch
from PIL import Image

sys.path.append(str(served.ROOT))
from vfi_core.sheet import contact_sheet  # noqa: E402

SIDE, GREY = 480, 72
KEYFRAMES = {
    "draw_one_segment_again": (0, 3, 6),
    "loop": (0, 6),
    "many_keyframes": (0, 6, 12),
    "scene_cuts": (0, 6, 12, 18),
    "slow_motion": (0, 6, 12, 18),
}


async def main(comfy: Path, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = served.Server(comfy, Path(folder))
        async with server:
            for name in names or sorted(path.stem for path in (served.ROOT / "workflows").glob("*.json")):
                nodes = served.workflow(name)
                for key, node in nodes.items():
                    if name.startswith("wide_gaps") and node["class_type"] == "SVDVFIInterpolate":
                        nodes["frames"]["inputs"]["images"] = [key, 0]
                wanted = {"frames"}
                while True:  # the film alone: what no frame depends on stays out
                    links = [v[0] for k in wanted for v in nodes[k]["inputs"].values() if isinstance(v, list)]
                    if set(links) <= wanted:
                        break
                    wanted |= set(links)
                frames = (await server.run({k: nodes[k] for k in wanted})).frames()
                if name in ("svd_xt_two_keyframes", "public_weights"):
                    frames[1:-1] = GREY
                if name == "wide_gaps_then_frame_interpolation":
                    doubled = torch.full((2 * len(frames) - 1, *frames.shape[1:]), GREY, dtype=frames.dtype)
                    doubled[::2] = frames
                    frames = doubled
                known = KEYFRAMES.get(name, (0, len(frames) - 1))
                sheet = contact_sheet(frames / 255, known, columns=math.ceil(math.sqrt(len(frames))))
                picture = Image.fromarray((sheet * 255).round().to(torch.uint8).numpy())
                picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
                square = Image.new("RGB", (SIDE, SIDE), (24, 24, 24))
                square.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
                square.save(served.ROOT / "workflows" / f"{name}.jpg", quality=88)
                shutil.rmtree(server.base / "output")
                print(name, len(frames), "frames")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
