import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wm_distributed.errors import ConfigError
from wm_distributed.families.iris import FAMILY
from wm_distributed.families.iris.config import IrisConfig, TokenizerConfig
from wm_distributed.families.iris.perceptual import load_perceptual_loss
from wm_distributed.families.iris.presets import debug
from wm_distributed.launch.preflight import preflight

CONVOLUTIONS = [
    (0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256),
    (14, 256, 256), (17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512),
    (26, 512, 512), (28, 512, 512),
]  # fmt: skip


def save(path: Path, num_first: int = 64) -> TokenizerConfig:
    weights = {}
    for number, num_in, num_out in CONVOLUTIONS:
        num_out = num_first if number == 0 else num_out
        weights[f"features.{number}.weight"] = 0.05 * torch.randn(num_out, num_in, 3, 3)
        weights[f"features.{number}.bias"] = torch.zeros(num_out)
    torch.save(weights, path)
    return replace(TokenizerConfig(), perceptual_weights=str(path))


def test_without_a_file_there_is_no_perceptual_loss() -> None:
    assert load_perceptual_loss(TokenizerConfig()) is None


def test_equal_frames_have_no_distance_and_others_have_one_with_a_gradient(tmp_path: Path) -> None:
    loss = load_perceptual_loss(save(tmp_path / "vgg.pth"))
    assert loss is not None
    assert not any(param.requires_grad for param in loss.parameters())
    frames = torch.rand(1, 3, 16, 16, requires_grad=True)
    assert loss(frames, frames).item() == 0.0
    distance = loss(frames, torch.rand(1, 3, 16, 16))
    assert distance.item() > 0.0
    distance.backward()
    assert frames.grad is not None
    assert frames.grad.any()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    config = replace(TokenizerConfig(), perceptual_weights=str(tmp_path / "none.pth"))
    with pytest.raises(ConfigError, match=r"none\.pth cannot be read: No such file"):
        load_perceptual_loss(config)


def test_a_file_of_no_use_is_refused_before_a_run_starts(tmp_path: Path) -> None:
    run = debug()
    tokenizer = replace(run.model.tokenizer, perceptual_weights=str(tmp_path / "none.pth"))
    with pytest.raises(ConfigError, match=r"none\.pth cannot be read: No such file"):
        preflight(replace(run, model=replace(run.model, tokenizer=tokenizer)), tmp_path)
    tokenizer = save(tmp_path / "other.pth", num_first=32)
    tokenizer = replace(run.model.tokenizer, perceptual_weights=tokenizer.perceptual_weights)
    with pytest.raises(ConfigError, match="expected the weights of VGG16"):
        preflight(replace(run, model=replace(run.model, tokenizer=tokenizer)), tmp_path)


def test_it_is_said_that_there_is_no_perceptual_loss_where_there_is_none(tmp_path: Path) -> None:
    assert FAMILY.notices is not None
    (notice,) = FAMILY.notices(IrisConfig())
    assert "trains without the perceptual loss" in notice
    assert FAMILY.notices(IrisConfig(tokenizer=save(tmp_path / "vgg.pth"))) == []


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    config = save(tmp_path / "vgg.pth")
    whole, older = (tmp_path / "vgg.pth").read_bytes(), io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, older, _use_new_zipfile_serialization=False)
    parts = (older.getvalue()[:size] for size in (60, 120, 240))
    for content in (b"", b"no weights", whole[:5000], whole[:-9], *parts):
        (tmp_path / "vgg.pth").write_bytes(content)
        with pytest.raises(ConfigError, match=r"vgg\.pth is damaged or no file of weights$"):
            load_perceptual_loss(config)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected the weights of VGG16"):
        load_perceptual_loss(save(tmp_path / "vgg.pth", num_first=32))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    config = replace(TokenizerConfig(), perceptual_weights=str(tmp_path / "other.pth"))
    with pytest.raises(ConfigError, match="expected the weights of VGG16"):
        load_perceptual_loss(config)
