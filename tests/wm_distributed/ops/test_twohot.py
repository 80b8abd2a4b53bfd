import math

import pytest
import torch

from wm_distributed.ops.twohot import (
    symexp,
    symexp_bins,
    symlog,
    two_hot_loss,
    two_hot_mean,
    two_hot_weights,
)


def sorted_bins(bins: torch.Tensor) -> torch.Tensor:
    """All bins in the order of the logits: -b[1] … -b[m], 0, b[1] … b[m]."""
    return torch.cat([-bins[1:], bins])


def test_symlog_and_symexp_invert_each_other() -> None:
    x = torch.tensor([-1e4, -1.0, -0.1, 0.0, 0.5, 3.0, 1e4])
    torch.testing.assert_close(symexp(symlog(x)), x)
    assert symlog(torch.tensor(math.e - 1.0)).item() == pytest.approx(1.0)
    assert symlog(torch.tensor(-(math.e**2) + 1.0)).item() == pytest.approx(-2.0)


def test_bins_grow_exponentially_from_zero() -> None:
    bins = symexp_bins(255)
    assert bins.shape == (128,)
    assert bins[0] == 0.0
    assert bins[-1].item() == pytest.approx(math.exp(20.0) - 1.0, rel=1e-5)
    assert bins[1].item() == pytest.approx(math.exp(20.0 / 127.0) - 1.0, rel=1e-5)


def test_an_even_number_of_bins_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be odd, .* got 254"):
        symexp_bins(254)


def test_weights_of_hand_worked_targets() -> None:
    bins = torch.tensor([0.0, 1.0, 3.0])  # in the order of the logits: -1 -3 0 1 3
    position, weight = two_hot_weights(torch.tensor([2.5, -0.25, 0.0, 3.0, -7.0]), bins)
    encoded = torch.zeros(5, 5).scatter_add_(1, position, weight)
    assert encoded.tolist() == [
        [0.0, 0.0, 0.0, 0.25, 0.75],
        [0.25, 0.0, 0.75, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 1.0, 0.0, 0.0, 0.0],
    ]


def test_the_mean_of_an_encoded_target_is_the_target() -> None:
    bins = symexp_bins(255)
    target = torch.cat([torch.randn(50) * 10.0 ** torch.arange(-2, 3).repeat(10), torch.zeros(1)])
    position, weight = two_hot_weights(target, bins)
    mean = (sorted_bins(bins)[position] * weight).sum(-1)
    torch.testing.assert_close(mean, target, rtol=1e-4, atol=1e-4)
    assert (weight >= 0).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(51))


def test_the_mean_of_a_new_head_is_exactly_zero() -> None:
    bins = symexp_bins(255)
    assert two_hot_mean(torch.zeros(4, 255), bins).tolist() == [0.0] * 4
    # The naive sum is not: this is what the pairing is for.
    probs = torch.zeros(255).softmax(-1)
    assert (probs * sorted_bins(bins).sort().values).sum().item() != 0.0


def test_the_mean_equals_the_expectation_in_double_precision() -> None:
    bins = symexp_bins(41, limit=5.0)
    logits = torch.randn(20, 41)
    expected = (logits.double().softmax(-1) * sorted_bins(bins).double()).sum(-1)
    torch.testing.assert_close(two_hot_mean(logits, bins).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy_with_each_target_summed() -> None:
    bins = symexp_bins(41)
    logits = torch.randn(6, 41)
    first, second = torch.randn(2, 6) * 5.0
    expected = torch.zeros(6)
    for target in (first, second):
        position, weight = two_hot_weights(target, bins)
        dense = torch.zeros(6, 41).scatter_add_(1, position, weight)
        expected -= (dense * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(two_hot_loss(logits, bins, first, second), expected)


def test_minimising_the_loss_moves_the_mean_to_the_target() -> None:
    bins = symexp_bins(41)
    logits = torch.zeros(1, 41, requires_grad=True)
    target = torch.tensor([12.5])
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        two_hot_loss(logits, bins, target).sum().backward()
        optimizer.step()
    assert two_hot_mean(logits.detach(), bins).item() == pytest.approx(12.5, rel=0.05)
