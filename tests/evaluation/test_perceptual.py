"""FLIP by its laws, LPIPS against torchmetrics', and weights that are missing or wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="needs the extra 'eval'")
pytest.importorskip("torchmetrics", reason="needs the extra 'eval'")

import torch

from vfi_core.evaluation import perceptual


def pictures(n: int, side: int = 48) -> torch.Tensor:
    return torch.rand(n, side, side, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for AlexNet's file, with random weights, that passes for the published one."""
    torch.manual_seed(0)
    net, _ = perceptual.alexnet()
    path = tmp_path / "random.pth"
    torch.save(
        {f"features.{k}": v for k, v in net.state_dict().items()} | {"classifier.1.bias": torch.ones(2)}, path
    )
    monkeypatch.setattr(perceptual, "DIGEST", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_flip_is_zero_for_equal_pictures_and_sees_every_frame_for_itself():
    pytest.importorskip("flip_evaluator", reason="needs the extra 'eval'")
    frames = pictures(2)
    values = perceptual.flip(frames, torch.stack([frames[0], 1 - frames[1]]))
    assert values[0] == 0 and 0.1 < values[1] <= 1


def test_flip_of_black_and_white_is_nearly_one():
    pytest.importorskip("flip_evaluator", reason="needs the extra 'eval'")
    # Andersson et al., 2020: 1 is the largest difference there is; of black and white 0.97 measured
    assert perceptual.flip(torch.ones(1, 32, 32, 3), torch.zeros(1, 32, 32, 3))[0] > 0.9


def test_lpips_agrees_with_torchmetrics_on_the_same_backbone(backbone: Path, monkeypatch: pytest.MonkeyPatch):
    from torchmetrics.functional.image import lpips as theirs

    net, _ = perceptual.alexnet()
    net.load_state_dict(
        {k.removeprefix("features."): v for k, v in torch.load(backbone).items() if "feat" in k}
    )
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda name, pretrained: net)
    model = theirs._LPIPS(net="alex", pnet_rand=True)
    a, b = pictures(4)[:2], pictures(4)[2:]
    expected = model(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2), normalize=True).flatten()
    ours = perceptual.load_lpips(backbone)(a, b)
    assert ours.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert perceptual.load_lpips(backbone)(a, a).tolist() == [0, 0]


def test_only_the_published_weights_measure(tmp_path: Path, backbone: Path):
    path = tmp_path / "changed.pth"
    path.write_bytes(backbone.read_bytes()[:-1])
    with pytest.raises(ValueError, match="changed.pth is not AlexNet as torchvision publishes it"):
        perceptual.load_lpips(path)


def test_the_backbone_is_looked_for_in_torch_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert perceptual.find_backbone(None) is None
    path = tmp_path / "hub/checkpoints" / perceptual.ALEXNET
    path.parent.mkdir(parents=True)
    path.touch()
    assert perceptual.find_backbone(None) == path
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / perceptual.ALEXNET
    with pytest.raises(ValueError, match="gone.pth is not there"):
        perceptual.find_backbone(tmp_path / "gone.pth")
