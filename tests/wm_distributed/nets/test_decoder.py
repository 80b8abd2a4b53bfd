import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.nets.decoder import Decoder
from wm_distributed.nets.encoder import ObsLayout

LAYOUT = ObsLayout(
    {
        "camera": spaces.Box(0, 255, (32, 32, 3), np.uint8),
        "map": spaces.Box(0, 255, (32, 32, 1), np.uint8),
        "speed": spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
        "angle": spaces.Box(-np.inf, np.inf, (4,), np.float32),
    }
)


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(
        LAYOUT, 8, 6, units=5, vector_layers=1, depths=[4, 6, 8], blocks=2, norm="rms", act="silu"
    )


def test_every_observation_is_predicted_in_its_shape(decoder: Decoder) -> None:
    predicted = decoder(torch.randn(7, 8), torch.randn(7, 6))
    assert predicted["camera"].shape == (7, 3, 32, 32)
    assert predicted["map"].shape == (7, 1, 32, 32)
    assert predicted["speed"].shape == (7, 6)
    assert decoder.to_obs(predicted)["speed"].shape == (7, 2, 3)
    assert 0.0 <= predicted["camera"].min() <= predicted["camera"].max() <= 1.0


def test_vectors_are_decoded_in_their_own_unit(decoder: Decoder) -> None:
    predicted = decoder(torch.randn(7, 8), torch.randn(7, 6))
    predicted["angle"] = torch.full((7, 4), np.log(1001.0))
    assert decoder.to_obs(predicted)["angle"][0, 0].item() == pytest.approx(1000.0, rel=1e-4)


def test_the_loss_sums_over_an_observation_and_averages_over_states(decoder: Decoder) -> None:
    deter, stoch = torch.randn(6, 8), torch.randn(6, 6)
    obs = {
        "camera": torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8),
        "map": torch.randint(0, 256, (2, 3, 32, 32, 1), dtype=torch.uint8),
        "speed": torch.randn(2, 3, 2, 3),
        "angle": torch.randn(2, 3, 4),
    }
    prepared = LAYOUT.prepare(obs)
    losses = decoder.loss(deter, stoch, prepared)
    predicted = decoder(deter, stoch)
    assert list(losses) == ["camera", "map", "angle", "speed"]
    for key, loss in losses.items():
        square = (predicted[key] - prepared[key].reshape(predicted[key].shape)).square()
        torch.testing.assert_close(loss, square.flatten(1).sum(1).mean())


def test_both_parts_of_the_state_shape_the_image(decoder: Decoder) -> None:
    deter, stoch = torch.randn(1, 8), torch.randn(1, 6)
    image = decoder(deter, stoch)["camera"]
    assert not torch.equal(decoder(-deter, stoch)["camera"], image)
    assert not torch.equal(decoder(deter, -stoch)["camera"], image)
