import math

import pytest
import torch

from wm_distributed.collective import Collective
from wm_distributed.families.iris.actor_critic import Actor, Trajectory, actor_critic_losses
from wm_distributed.families.iris.config import ActorCriticConfig

CONFIG = ActorCriticConfig(gamma=0.5, lam=0.5, entropy=0.0, horizon=3)
H = 3


def trajectory(reward: list[float], end: list[bool], value: list[float]) -> Trajectory:
    """One sequence of three states with two actions, the first of which is always chosen."""
    return Trajectory(
        logits=torch.zeros(1, H, 2, requires_grad=True),
        action=torch.zeros(1, H, dtype=torch.long),
        value=torch.tensor([value], requires_grad=True),
        reward=torch.tensor([reward]),
        end=torch.tensor([end]),
        tokens=torch.zeros(1, H, 1, dtype=torch.long),
    )


def test_losses_of_a_trajectory_worked_by_hand() -> None:
    # Returns: G1 = 1 + 0.5 · 4 = 3;  G0 = −1 + 0.5 · (0.5 · 2 + 0.5 · 3) = 0.25.
    one = trajectory(reward=[9.0, -1.0, 1.0], end=[False] * 3, value=[1.0, 2.0, 4.0])
    losses, figures = actor_critic_losses(CONFIG, one)
    advantages = (0.25 - 1.0) + (3.0 - 2.0)
    assert losses["policy"].item() == pytest.approx(math.log(2.0) * advantages / 2)
    assert losses["value"].item() == pytest.approx((0.75**2 + 1.0) / 2)
    assert figures["imagined_return"].item() == 0.0
    assert figures["policy_entropy"].item() == pytest.approx(math.log(2.0))


def test_an_end_cuts_the_return_and_what_comes_after_it_counts_for_nothing() -> None:
    # The second state is the last: G0 = −1, and the third state's reward is never earned.
    one = trajectory(reward=[0.0, -1.0, 1.0], end=[False, True, False], value=[1.0, 2.0, 4.0])
    losses, figures = actor_critic_losses(CONFIG, one)
    assert losses["value"].item() == pytest.approx((-1.0 - 1.0) ** 2)
    assert figures["imagined_return"].item() == -1.0
    assert figures["imagined_length"].item() == 1.0
    losses["policy"].backward()  # type: ignore[no-untyped-call]
    assert one.logits.grad is not None
    assert one.logits.grad[0, 1:].abs().sum() == 0.0
    assert one.logits.grad[0, 0].abs().sum() > 0.0


def test_a_sequence_that_begins_at_an_end_is_left_out() -> None:
    one = trajectory(reward=[0.0, 5.0, 5.0], end=[True, False, False], value=[1.0, 2.0, 4.0])
    losses, figures = actor_critic_losses(CONFIG, one)
    assert all(loss.item() == 0.0 for loss in losses.values())
    assert figures["imagined_return"].item() == 0.0


def test_a_better_action_becomes_likelier_and_the_value_no_less() -> None:
    one = trajectory(reward=[0.0, 1.0, 1.0], end=[False] * 3, value=[0.0, 0.0, 0.0])
    losses, _ = actor_critic_losses(CONFIG, one)
    (losses["policy"] + losses["value"]).backward()
    assert one.logits.grad is not None
    assert one.value.grad is not None
    assert one.logits.grad[0, 0, 0] < 0 < one.logits.grad[0, 0, 1]
    assert one.value.grad[0, 0] < 0.0
    assert one.value.grad[0, 2] == 0.0, "the last value is a target"


def test_the_state_remembers_until_an_episode_begins() -> None:
    actor = Actor(ActorCriticConfig(channels=(4, 4), units=8), 16, 3)
    first, second = (actor.features(torch.rand(2, 3, 16, 16)) for _ in range(2))
    state = actor.remember(first, actor.initial_state(2))
    later = actor.remember(second, state.reset(torch.tensor([False, True])))
    fresh = actor.remember(second, actor.initial_state(2))
    torch.testing.assert_close(later.hidden[1], fresh.hidden[1])
    assert not torch.allclose(later.hidden[0], fresh.hidden[0])


def test_standardised_actors_tell_frames_apart_that_have_nearly_all_in_common() -> None:
    """One bright pixel on a bright ground: without standardising, all frames look the same."""
    frames = torch.full((16, 3, 16, 16), 0.7)
    frames[torch.arange(16), :, torch.arange(16), 3] = 1.0
    spread = {}
    for standardize in (False, True):
        torch.manual_seed(0)
        config = ActorCriticConfig(channels=(4, 4), units=8, standardize=standardize)
        actor = Actor(config, 16, 3)
        if actor.standardize is not None:
            actor.standardize.follow(frames, Collective())
        features = actor.features(frames).detach()
        spread[standardize] = float(features.std(0).mean() / features.abs().mean())
    assert spread[False] < 0.1
    assert spread[True] > 0.5
