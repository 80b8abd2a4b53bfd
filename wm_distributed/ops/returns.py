"""λ-returns."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_return(
    reward: Tensor, discount: Tensor, bootstrap: Tensor, lam: float, is_last: Tensor | None = None
) -> Tensor:
    """λ-returns ``(B, T - 1)`` of the first T − 1 states of trajectories.

    In the alignment of ``types.py``, where ``reward[t]`` arrives with state t::

        G[t] = reward[t+1] + discount[t+1] * ((1 - λ[t+1]) * bootstrap[t+1] + λ[t+1] * G[t+1])

    with ``G[T-1] = bootstrap[T-1]``, and λ zero at the last step of an episode, because the step
    after it belongs to another one.

    Args:
        reward: ``(B, T)``; the first column is not used.
        discount: ``(B, T)``, γ times the probability that state t is not terminal.
        bootstrap: ``(B, T)``, values of the states; the first column is not used.
        lam: λ in [0, 1].
        is_last: ``bool (B, T)``, ends of episodes; None where there are none.

    Source: Sutton and Barto, Reinforcement Learning (2018), equation 12.20; Hafner et al.,
        "Mastering Diverse Domains through World Models" (2023), equation 7.
    """
    decay = discount[:, 1:] * lam
    if is_last is not None:
        decay = decay * ~is_last[:, 1:]
    step = torch.addcmul(reward[:, 1:], discount[:, 1:] - decay, bootstrap[:, 1:])
    returns = [bootstrap[:, -1]]
    for step_t, decay_t in zip(reversed(step.unbind(1)), reversed(decay.unbind(1)), strict=True):
        returns.append(torch.addcmul(step_t, decay_t, returns[-1]))
    return torch.stack(returns[:0:-1], dim=1)
