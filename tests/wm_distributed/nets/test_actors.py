import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.nets.actors import (
    Actor,
    BoundedNormalHead,
    DiscreteHead,
    TanhNormalHead,
    action_size,
    build_action_head,
)

CPU = torch.device("cpu")


def test_spaces_choose_the_distribution() -> None:
    box = spaces.Box(-1.0, 1.0, (3,), np.float32)
    assert isinstance(build_action_head(spaces.Discrete(4)), DiscreteHead)
    assert isinstance(build_action_head(box), BoundedNormalHead)
    assert type(build_action_head(box)) is BoundedNormalHead
    assert type(build_action_head(box, "tanh_normal")) is TanhNormalHead
    assert action_size(spaces.Discrete(4)) == 4
    assert action_size(box) == 3


def test_a_new_actor_is_nearly_uniform() -> None:
    head = DiscreteHead(5)
    actor = Actor(head, 8, 16, 2, "rms", "silu")
    entropy = head.entropy(actor(torch.randn(100, 8)))
    assert entropy.min().item() == pytest.approx(math.log(5), abs=1e-3)


def test_discrete_figures_equal_those_of_torch_distributions() -> None:
    head, logits = DiscreteHead(4), torch.randn(6, 4)
    action = head.sample(logits, head.noise(6, device=CPU, generator=None))
    reference = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(head.log_prob(logits, action), reference.log_prob(action.argmax(-1)))
    torch.testing.assert_close(head.entropy(logits), reference.entropy())
    assert torch.equal(head.mode(logits).argmax(-1), logits.argmax(-1))


def test_discrete_samples_follow_the_probabilities() -> None:
    head, logits = DiscreteHead(3), torch.tensor([0.0, 1.0, -1.0])
    noise = head.noise(20_000, device=CPU, generator=None)
    frequencies = head.sample(logits.expand(20_000, 3), noise).mean(0)
    torch.testing.assert_close(frequencies, logits.softmax(-1), atol=0.015, rtol=0.0)


def test_continuous_figures_equal_those_of_torch_distributions() -> None:
    head, params = BoundedNormalHead(3), torch.randn(6, 6)
    mean = params[:, :3].tanh()
    std = 0.9 * torch.sigmoid(params[:, 3:] + 2.0) + 0.1
    reference = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    action = head.sample(params, head.noise(6, device=CPU, generator=None))
    torch.testing.assert_close(head.log_prob(params, action), reference.log_prob(action))
    torch.testing.assert_close(head.entropy(params), reference.entropy())
    assert torch.equal(head.mode(params), mean)


def test_stored_actions_and_vectors_invert_each_other() -> None:
    stored = torch.randint(0, 4, (2, 5))
    head = DiscreteHead(4)
    assert head.from_env(stored).shape == (2, 5, 4)
    assert torch.equal(head.to_env(head.from_env(stored)).long(), stored)
    assert head.to_env(head.from_env(stored)).dtype == torch.int32


def test_continuous_actions_are_clipped_for_the_environment_alone() -> None:
    head = BoundedNormalHead(2)
    action = torch.tensor([[1.5, -0.25]])
    assert head.to_env(action).tolist() == [[1.0, -0.25]]
    assert head.from_env(action).tolist() == [[1.5, -0.25]]


def test_squashed_figures_equal_those_of_torch_distributions() -> None:
    head, params = TanhNormalHead(3), 0.1 * torch.randn(6, 6)
    mean = 5.0 * (params[:, :3] / 5.0).tanh()
    std = torch.nn.functional.softplus(params[:, 3:] + math.log(math.expm1(5.0))) + 1e-4
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, std), torch.distributions.TanhTransform()
    )
    reference = torch.distributions.Independent(squashed, 1)
    action = head.sample(params, 0.1 * head.noise(6, device=CPU, generator=None))
    assert action.abs().max() < 1.0
    torch.testing.assert_close(
        head.log_prob(params, action), reference.log_prob(action), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(head.mode(params), mean.tanh())


def test_a_squashed_sample_carries_the_gradient_of_its_parameters() -> None:
    head, params = TanhNormalHead(2), torch.zeros(1, 4, requires_grad=True)
    head.sample(params, torch.full((1, 2), 0.1)).sum().backward()
    assert params.grad is not None
    assert (params.grad.abs() > 0).all()
