"""The policy and its critic: convolutions and an LSTM over reconstructed frames.

::

    real frames ─burn-in→ LSTM ─┐
    last real frame's tokens ───┴→ [decode, act, imagine] × (H − 1) ─→ λ-returns ─→ losses
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.iris.config import ActorCriticConfig
from wm_distributed.families.iris.standardize import Standardize
from wm_distributed.families.iris.steps import masked_mean
from wm_distributed.ops.returns import lambda_return


class ActorState(NamedTuple):
    """Recurrent state of N environments or imagined sequences."""

    hidden: Tensor
    """``(N, units)``"""
    cell: Tensor
    """``(N, units)``"""

    def reset(self, is_first: Tensor) -> ActorState:
        """The state with zeros where an episode begins, ``is_first (N,)``."""
        keep = (~is_first).unsqueeze(-1).to(self.hidden.dtype)
        return ActorState(self.hidden * keep, self.cell * keep)


class Actor(nn.Module):
    """Features of frames, the LSTM over them, and the policy's logits.

    Source: Micheli et al. (2023), appendix A.3. The last layer starts near zero here, so that the
        first policy is nearly uniform. If ``standardize`` is set, frames are standardised,
        convolutions start as in He et al., "Delving Deep into Rectifiers" (2015), and features
        pass layer normalisation.
    """

    def __init__(self, config: ActorCriticConfig, image_size: int, num_actions: int) -> None:
        """Builds the networks."""
        super().__init__()
        layers: list[nn.Module] = []
        for num_in, num_out in pairwise([3, *config.channels]):
            layers += [nn.Conv2d(num_in, num_out, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        size = image_size // 2 ** len(config.channels)
        self.convolutions = nn.Sequential(*layers)
        num_features = config.channels[-1] * size**2
        self.lstm = nn.LSTMCell(num_features, config.units)
        self.policy = nn.Linear(config.units, num_actions)
        nn.init.normal_(self.policy.weight, std=1e-3)
        nn.init.zeros_(self.policy.bias)
        self.standardize: Standardize | None = None
        self.norm: nn.Module = nn.Identity()
        if config.standardize:
            self.standardize = Standardize(image_size)
            self.norm = nn.LayerNorm(num_features)
            for layer in layers:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def initial_state(self, num: int) -> ActorState:
        """Zeros."""
        zeros = self.policy.weight.new_zeros(num, self.lstm.hidden_size)
        return ActorState(zeros, zeros)

    def features(self, pixels: Tensor) -> Tensor:
        """Of frames ``(N, 3, H, W)`` in [0, 1], ``(N, F)``."""
        frames = 2.0 * pixels - 1.0 if self.standardize is None else self.standardize(pixels)
        out: Tensor = self.norm(self.convolutions(frames).flatten(1))
        return out

    def remember(self, features: Tensor, state: ActorState) -> ActorState:
        """The state after features ``(N, F)``."""
        return ActorState(*self.lstm(features, tuple(state)))


class Trajectory(NamedTuple):
    """H states of B sequences, and what was done and earned in them.

    In the alignment of ``types.py``: ``reward[t]`` and ``end[t]`` arrive with state t.
    """

    logits: Tensor
    """``(B, H, A)``, of the policy."""
    action: Tensor
    """``int64 (B, H)``; the last one was not taken."""
    value: Tensor
    """``(B, H)``"""
    reward: Tensor
    """``(B, H)``, zero with the first state."""
    end: Tensor
    """``bool (B, H)``; with the first state: whether the sequence is no use."""
    tokens: Tensor
    """``int64 (B, H, K)``, the frames."""


def actor_critic_losses(
    config: ActorCriticConfig, trajectory: Trajectory
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """REINFORCE with the value as baseline, the value's squared error, and the policy's entropy.

    States from an end on count for nothing: whoever dies in imagination is dead.

    Source: Micheli et al. (2023), section 2.3 and appendix B, equations 2 to 6. There, states
        after an end still count.
    """
    reward, end = trajectory.reward, trajectory.end
    with torch.no_grad():
        discount = config.gamma * (~end).float()
        returns = lambda_return(reward, discount, trajectory.value.float(), config.lam)
    alive = end.cumsum(dim=1)[:, :-1] == 0  # (B, H - 1)
    value = trajectory.value[:, :-1].float()
    log_probs = trajectory.logits[:, :-1].float().log_softmax(-1)  # (B, H - 1, A)
    log_prob = log_probs.gather(-1, trajectory.action[:, :-1, None]).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    advantage = returns - value.detach()
    losses = {
        "policy": -masked_mean(log_prob * advantage, alive),
        "value": masked_mean(F.mse_loss(value, returns, reduction="none"), alive),
        "entropy": -config.entropy * masked_mean(entropy, alive),
    }
    earned = (reward[:, 1:] * alive).sum(dim=1)
    figures = {
        "imagined_return": masked_mean(earned, ~end[:, 0]),
        "imagined_length": masked_mean(alive.sum(dim=1).float(), ~end[:, 0]),
        "value_mean": masked_mean(value.detach(), alive),
        "policy_entropy": masked_mean(entropy.detach(), alive),
    }
    return losses, figures
