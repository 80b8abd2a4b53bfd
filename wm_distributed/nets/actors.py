"""Policies over discrete and continuous actions.

Inside networks every action is a float vector ``(…, A)``: one-hot where it is discrete. A policy's
parameters are one tensor ``(…, P)``, and random numbers come from outside, as ``noise``.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from wm_distributed.api import ActionSpace
from wm_distributed.nets.config import ActName, NormName
from wm_distributed.nets.layers import MLP, Linear
from wm_distributed.ops.categorical import sample_one_hot

_INITIAL_SCALE = 0.01
_MIN_STD, _MAX_STD = 0.1, 1.0
_MEAN_LIMIT, _FIRST_STD = 5.0, 5.0
_ALMOST_ONE = 1.0 - 1e-6


class ActionHead(Protocol):
    """A distribution over actions."""

    num_params: int
    """Network outputs that it is made of."""
    is_continuous: bool
    """Whether actions are vectors within [−1, 1]."""

    def noise(self, *shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Random numbers for :meth:`sample` of parameters ``(*shape, P)``."""

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Actions ``(…, A)``."""

    def mode(self, params: Tensor) -> Tensor:
        """The likeliest actions ``(…, A)``."""

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probabilities or densities ``(…)``."""

    def entropy(self, params: Tensor) -> Tensor:
        """Entropies ``(…)``, in nats."""

    def from_env(self, action: Tensor) -> Tensor:
        """Stored actions, ``(…)`` integers or ``(…, A)``, as float vectors ``(…, A)``."""

    def to_env(self, action: Tensor) -> Tensor:
        """Inverts :meth:`from_env`: ``int32 (…)``, or ``float32 (…, A)`` within [−1, 1]."""


class DiscreteHead:
    """Categorical distribution; parameters are logits ``(…, A)``."""

    def __init__(self, num_actions: int) -> None:
        """Sets A."""
        self.num_params = self._num_actions = num_actions
        self.is_continuous = False

    def noise(self, *shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        return torch.rand(*shape, 1, device=device, generator=generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        probs = params.float().softmax(-1)
        return sample_one_hot(probs.unsqueeze(-1), noise).squeeze(-1)

    def mode(self, params: Tensor) -> Tensor:
        return F.one_hot(params.argmax(-1), self._num_actions).float()

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        return (params.float().log_softmax(-1) * action).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        log_probs = params.float().log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def from_env(self, action: Tensor) -> Tensor:
        classes = torch.arange(self._num_actions, device=action.device)
        return (action.unsqueeze(-1) == classes).float()

    def to_env(self, action: Tensor) -> Tensor:
        return action.argmax(-1).to(torch.int32)


class BoundedNormalHead:
    """Normal distribution with mean tanh(·) and standard deviation in 0.1..1.

    Samples may lie beyond ±1; the environment and the world model see them clipped, and the
    log-probability is that of the sample. Source: DreamerV3's code.
    """

    def __init__(self, action_size: int) -> None:
        """Sets A."""
        self._action_size = action_size
        self.num_params = 2 * action_size
        self.is_continuous = True

    def noise(self, *shape: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        return torch.randn(*shape, self._action_size, device=device, generator=generator)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        mean, std = self._mean_std(params)
        return torch.addcmul(mean, std, noise)

    def mode(self, params: Tensor) -> Tensor:
        return self._mean_std(params)[0]

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        mean, std = self._mean_std(params)
        distance = ((action - mean) / std).square()
        return -(0.5 * distance + std.log() + 0.5 * math.log(2.0 * math.pi)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        _, std = self._mean_std(params)
        return (std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)

    def from_env(self, action: Tensor) -> Tensor:
        return action.float()

    def to_env(self, action: Tensor) -> Tensor:
        return action.clamp(-1.0, 1.0).float()

    def _mean_std(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = params.float().chunk(2, dim=-1)
        return mean.tanh(), (_MAX_STD - _MIN_STD) * torch.sigmoid(std + 2.0) + _MIN_STD


class TanhNormalHead(BoundedNormalHead):
    """Normal distribution squashed by tanh; samples are differentiable.

    Source: Hafner et al., "Dream to Control" (2020) and its code, with the mode of the underlying
        normal distribution instead of the likeliest of 100 samples.
    """

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return super().sample(params, noise).tanh()

    def mode(self, params: Tensor) -> Tensor:
        return super().mode(params).tanh()

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        inside = action.clamp(-_ALMOST_ONE, _ALMOST_ONE)
        slope = (1.0 - inside.square()).log().sum(-1)
        return super().log_prob(params, inside.atanh()) - slope

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy before squashing, which has no closed form after it."""
        return super().entropy(params)

    def _mean_std(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = params.float().chunk(2, dim=-1)
        first = math.log(math.expm1(_FIRST_STD))
        return _MEAN_LIMIT * (mean / _MEAN_LIMIT).tanh(), F.softplus(std + first) + 1e-4


def build_action_head(
    space: ActionSpace, continuous: Literal["bounded_normal", "tanh_normal"] = "bounded_normal"
) -> ActionHead:
    """The distribution for a space."""
    if isinstance(space, spaces.Discrete):
        return DiscreteHead(int(space.n))
    head = TanhNormalHead if continuous == "tanh_normal" else BoundedNormalHead
    return head(math.prod(space.shape))


def action_size(space: ActionSpace) -> int:
    """Size A of an action inside networks."""
    return int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape)


class Actor(nn.Module):
    """A perceptron from features to the parameters of an action distribution."""

    def __init__(
        self,
        head: ActionHead,
        num_in: int,
        units: int,
        num_layers: int,
        norm: NormName,
        act: ActName,
    ) -> None:
        """Builds the network; at first, actions are nearly uniform, or centred at zero."""
        super().__init__()
        self.head = head
        self.mlp = MLP(num_in, units, num_layers, norm, act)
        self.out = Linear(units, head.num_params, scale=_INITIAL_SCALE)

    def forward(self, feat: Tensor) -> Tensor:
        """Parameters ``(…, P)`` for features ``(…, num_in)``."""
        params: Tensor = self.out(self.mlp(feat))
        return params
