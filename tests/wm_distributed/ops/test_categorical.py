import math

import pytest
import torch

from wm_distributed.ops.categorical import (
    categorical_entropy,
    categorical_kl,
    from_index,
    mixed_probs,
    sample_index,
    sample_one_hot,
    to_index,
)


def test_unimix_mixes_in_a_share_of_the_uniform_distribution() -> None:
    logits = torch.tensor([[100.0], [0.0], [0.0], [0.0]])  # (C, S) = (4, 1)
    probs = mixed_probs(logits, 0.01)
    assert probs.flatten().tolist() == pytest.approx([0.9925, 0.0025, 0.0025, 0.0025])


def test_samples_invert_the_distribution_function() -> None:
    probs = torch.tensor([0.25, 0.5, 0.25]).view(3, 1).expand(6, 3, 1)
    uniform = torch.tensor([0.0, 0.24, 0.25, 0.74, 0.75, 0.999999]).view(6, 1)
    sample = sample_one_hot(probs, uniform)
    assert to_index(sample).flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert sample.sum(-2).eq(1.0).all()


def test_indices_are_drawn_as_often_as_their_logits_say() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(20_000, 3)
    index = sample_index(logits, torch.Generator().manual_seed(0))
    share = torch.bincount(index, minlength=3) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.2, 0.5, 0.3]), rtol=0.0, atol=0.015)
    assert torch.equal(index, sample_index(logits, torch.Generator().manual_seed(0)))


def test_samples_are_one_hot_even_where_probabilities_do_not_reach_one() -> None:
    sample = sample_one_hot(torch.tensor([[0.3], [0.3], [0.3]]), torch.tensor([0.95]))
    assert sample.flatten().tolist() == [0.0, 0.0, 1.0]


def test_sample_frequencies_equal_the_probabilities() -> None:
    probs = mixed_probs(torch.randn(4, 3), 0.01)
    samples = sample_one_hot(probs.expand(20_000, 4, 3), torch.rand(20_000, 3))
    torch.testing.assert_close(samples.mean(0), probs, atol=0.015, rtol=0.0)


def test_the_gradient_of_a_sample_is_that_of_the_probabilities() -> None:
    logits = torch.randn(5, 4, 3, requires_grad=True)
    weight = torch.randn(5, 4, 3)
    probs = mixed_probs(logits, 0.01)
    through_sample = sample_one_hot(probs, torch.rand(5, 3)) * weight
    (found,) = torch.autograd.grad(through_sample.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad((probs * weight).sum(), logits)
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0


def test_indices_and_one_hot_vectors_invert_each_other() -> None:
    index = torch.randint(0, 256, (7, 5)).to(torch.uint8)
    one_hot = from_index(index, 256)
    assert one_hot.shape == (7, 256, 5)
    assert torch.equal(to_index(one_hot), index)


def test_kl_and_entropy_equal_hand_worked_numbers() -> None:
    left = torch.tensor([[0.5, 0.9], [0.5, 0.1]])  # two variables of two classes
    right = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    first = 0.5 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0)
    second = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert categorical_kl(left, right).item() == pytest.approx(first + second, rel=1e-5)
    entropy = math.log(2.0) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert categorical_entropy(left).item() == pytest.approx(entropy, rel=1e-5)


def test_kl_equals_the_one_of_torch_distributions() -> None:
    left, right = mixed_probs(torch.randn(2, 6, 4, 3), 0.01)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(probs=left.transpose(-1, -2)),
        torch.distributions.Categorical(probs=right.transpose(-1, -2)),
    ).sum(-1)
    torch.testing.assert_close(categorical_kl(left, right), expected, rtol=1e-4, atol=1e-5)
