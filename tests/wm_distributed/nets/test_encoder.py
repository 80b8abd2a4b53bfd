import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.errors import ConfigError
from wm_distributed.nets.encoder import Encoder, ObsLayout

IMAGE = spaces.Box(0, 255, (32, 32, 3), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)


def encoder(layout: ObsLayout) -> Encoder:
    return Encoder(layout, units=7, vector_layers=2, depths=[4, 6, 8], norm="rms", act="silu")


def test_images_and_vectors_are_encoded_together() -> None:
    layout = ObsLayout({"camera": IMAGE, "speed": VECTOR, "angle": VECTOR})
    model = encoder(layout)
    obs = {
        "camera": torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8),
        "speed": torch.randn(2, 3, 5),
        "angle": torch.randn(2, 3, 5),
    }
    embed = model(layout.prepare(obs), 2, 3)
    assert embed.shape == (2, 3, model.embed_size) == (2, 3, 4 * 4 * 8 + 7)
    for key in obs:
        changed = obs | {key: obs[key].flip(0)}
        assert not torch.equal(model(layout.prepare(changed), 2, 3), embed), key


def test_preparing_scales_images_and_squashes_vectors() -> None:
    layout = ObsLayout({"camera": IMAGE, "speed": VECTOR})
    image = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    speed = torch.full((4, 5), 1000.0)
    prepared = layout.prepare({"camera": image, "speed": speed})
    torch.testing.assert_close(prepared["camera"], image.permute(0, 3, 1, 2) / 255.0)
    assert prepared["camera"].is_contiguous(memory_format=torch.channels_last)
    assert prepared["speed"][0, 0].item() == pytest.approx(np.log(1001.0))


def test_two_cameras_share_the_convolutions() -> None:
    layout = ObsLayout({"left": IMAGE, "right": IMAGE})
    assert next(encoder(layout).conv.parameters()).shape[1] == 6


def test_images_that_cannot_be_halved_so_often_are_refused() -> None:
    layout = ObsLayout({"camera": IMAGE})
    assert layout.low_resolution(3) == (4, 4)
    with pytest.raises(ConfigError, match=r"32x32 after 4 halvings are 2x2.*depth_multiples"):
        layout.low_resolution(4)
    with pytest.raises(ConfigError, match="without remainder"):
        ObsLayout({"camera": spaces.Box(0, 255, (36, 36, 3), np.uint8)}).low_resolution(3)


def test_images_of_several_sizes_are_refused() -> None:
    small = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    with pytest.raises(ConfigError, match="images of one size"):
        ObsLayout({"camera": IMAGE, "map": small})
