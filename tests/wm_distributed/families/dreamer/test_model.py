from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.dreamer.config import DreamerConfig, NetConfig
from wm_distributed.families.dreamer.model import DreamerModel, check_spaces
from wm_distributed.families.dreamer.presets import NETS

PIXELS = spaces.Box(0, 255, (64, 64, 3), np.uint8)
ACTION = spaces.Discrete(6)


def count(net: NetConfig, obs: spaces.Box) -> int:
    with torch.device("meta"):
        model = DreamerModel(DreamerConfig(net=net), EnvSpaces({"obs": obs}, ACTION))
    return sum(param.numel() for param in model.parameters() if param.requires_grad)


@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("1m", 0.69),
        ("12m", 10.5),
        ("25m", 23.5),
        ("50m", 41.7),
        ("100m", 93.5),
        ("200m", 166.0),
        ("400m", 373.0),
    ],
)
def test_sizes_have_the_published_numbers_of_parameters(size: str, millions: float) -> None:
    assert count(NETS[size], PIXELS) / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_smallest_size_from_vectors_has_its_number_of_parameters() -> None:
    state = spaces.Box(-1.0, 1.0, (5,), np.float32)
    assert count(NETS["1m"], state) / 1e6 == pytest.approx(0.64, rel=0.01)


def test_the_slow_critic_is_a_copy_that_follows(model: DreamerModel) -> None:
    assert not any(param.requires_grad for param in model.slow_critic.parameters())
    torch.nn.init.constant_(model.slow_critic.out.bias, 1.0)
    torch.nn.init.constant_(model.critic.out.bias, 2.0)
    model.update_slow_critic(0.25)
    assert model.slow_critic.out.bias.unique().tolist() == [1.25]
    assert model.critic.out.bias.unique().tolist() == [2.0]


def test_a_new_model_predicts_no_reward_and_no_value(
    config: DreamerConfig, env_spaces: EnvSpaces
) -> None:
    model = DreamerModel(config, env_spaces)
    feat = torch.randn(10, model.acting.feat_size)
    for head in (model.reward, model.critic, model.slow_critic):
        assert head.mean(head(feat)).eq(0.0).all()


def test_images_that_do_not_fit_the_networks_are_refused(config: DreamerConfig) -> None:
    small = EnvSpaces({"obs": spaces.Box(0, 255, (32, 32, 3), np.uint8)}, ACTION)
    with pytest.raises(ConfigError, match="depth_multiples"):
        check_spaces(config, small)
    odd = replace(config, net=replace(config.net, depth=3, depth_multiples=(1, 2, 3)))
    with pytest.raises(ConfigError, match=r"divisible by model\.net\.blocks, got 9 and 4"):
        check_spaces(odd, small)
