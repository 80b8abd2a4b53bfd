"""The networks of a Dreamer agent, grouped by who needs them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.dreamer.config import DreamerConfig, NetConfig
from wm_distributed.families.dreamer.rssm import RSSM
from wm_distributed.nets.actors import Actor, action_size, build_action_head
from wm_distributed.nets.decoder import Decoder
from wm_distributed.nets.encoder import Encoder, ObsLayout
from wm_distributed.nets.heads import BinaryHead, NormalHead, TwoHotHead


class ActingModel(nn.Module):
    """What acting needs: encoder, recurrent model and actor. Its weights are published."""

    def __init__(self, config: DreamerConfig, env_spaces: EnvSpaces) -> None:
        """Builds the networks."""
        super().__init__()
        net = config.net
        self.layout = ObsLayout(env_spaces.obs)
        self.encoder = Encoder(
            self.layout,
            units=net.units,
            vector_layers=net.vector_layers,
            depths=image_depths(config),
            norm=net.norm,
            act=net.act,
        )
        self.rssm = RSSM(config, self.encoder.embed_size, action_size(env_spaces.action))
        self.feat_size = self.rssm.deter_size + self.rssm.stoch_size
        head = build_action_head(env_spaces.action, net.actor)
        self.actor = Actor(head, self.feat_size, net.units, net.actor_layers, net.norm, net.act)


class DreamerModel(nn.Module):
    """All networks: the acting part, what else the world model predicts, and the critic."""

    def __init__(self, config: DreamerConfig, env_spaces: EnvSpaces) -> None:
        """Builds the networks."""
        super().__init__()
        net = config.net
        self.acting = ActingModel(config, env_spaces)
        rssm, feat_size = self.acting.rssm, self.acting.feat_size
        self.decoder = Decoder(
            self.acting.layout,
            rssm.deter_size,
            rssm.stoch_size,
            units=net.units,
            vector_layers=net.vector_layers,
            depths=image_depths(config),
            blocks=net.blocks,
            norm=net.norm,
            act=net.act,
        )
        self.reward = _scalar_head(net, feat_size, net.reward_layers)
        self.cont = BinaryHead(feat_size, net.units, net.cont_layers, net.norm, net.act)
        self.critic = _scalar_head(net, feat_size, net.critic_layers)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def compile_parts(self) -> None:
        """Compiles the networks, not the loops over time: those would take minutes to compile."""
        acting, rssm = self.acting, self.acting.rssm
        recurrent = (rssm.cell, rssm.prior, rssm.posterior_out)
        heads = (acting.actor, self.reward, self.cont, self.critic, self.slow_critic)
        for module in (acting.encoder, *recurrent, self.decoder, *heads):
            module.compile(dynamic=False)

    def world_parameters(self) -> list[nn.Parameter]:
        """Parameters of the world model: of all but actor and critics."""
        acting = self.acting
        modules = (acting.encoder, acting.rssm, self.decoder, self.reward, self.cont)
        return [param for module in modules for param in module.parameters()]

    @contextmanager
    def frozen_world(self) -> Iterator[None]:
        """Gradients pass through world model and critic without stopping there."""
        frozen = [*self.world_parameters(), *self.critic.parameters()]
        for param in frozen:
            param.requires_grad_(False)
        try:
            yield
        finally:
            for param in frozen:
                param.requires_grad_(True)

    @torch.no_grad()
    def update_slow_critic(self, rate: float) -> None:
        """Moves the slow critic by ``rate`` towards the critic."""
        slow: list[Tensor] = list(self.slow_critic.parameters())
        fast: list[Tensor] = list(self.critic.parameters())
        torch._foreach_lerp_(slow, fast, rate)


def _scalar_head(net: NetConfig, feat_size: int, num_layers: int) -> TwoHotHead | NormalHead:
    if net.scalar == "normal":
        return NormalHead(feat_size, net.units, num_layers, net.norm, net.act)
    return TwoHotHead(feat_size, net.units, num_layers, net.bins, net.norm, net.act)


def image_depths(config: DreamerConfig) -> list[int]:
    """Channels of each convolutional stage, from high to low resolution."""
    return [config.net.depth * multiple for multiple in config.net.depth_multiples]


def check_spaces(config: DreamerConfig, env_spaces: EnvSpaces) -> None:
    """Refuses spaces that the networks cannot serve, before anything starts.

    Raises:
        ConfigError: Images of the wrong size, or channels that do not divide into blocks.
    """
    layout = ObsLayout(env_spaces.obs)
    if not layout.images:
        return
    layout.low_resolution(len(config.net.depth_multiples))
    lowest = image_depths(config)[-1]
    if lowest % config.net.blocks:
        raise ConfigError(
            "the channels at the lowest resolution (model.net.depth times the last of "
            f"model.net.depth_multiples) must be divisible by model.net.blocks, got {lowest} "
            f"and {config.net.blocks}"
        )
