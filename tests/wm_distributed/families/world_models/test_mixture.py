import math

import pytest
import torch
from torch import distributions as td

from wm_distributed.families.world_models.mixture import (
    Mixture,
    negative_log_likelihood,
    sample,
    to_mixture,
)


def column(*values: float) -> torch.Tensor:
    """One variable's components, ``(K, 1)``."""
    return torch.tensor(values).unsqueeze(-1)


def random_mixture(*leading: int, num_mixtures: int = 5, size: int = 7) -> Mixture:
    return to_mixture(torch.randn(*leading, 3 * num_mixtures * size), num_mixtures)


def test_likelihood_of_a_hand_worked_mixture() -> None:
    mixture = Mixture(column(0.0, math.log(3)), column(0.0, 2.0), column(0.0, math.log(0.5)))
    # 1/4 N(1; 0, 1) + 3/4 N(1; 2, 1/2) = 0.0604927 + 0.0809865 = 0.1414791
    nll = negative_log_likelihood(mixture, torch.tensor([1.0]))
    assert nll.item() == pytest.approx(-math.log(0.1414791), abs=1e-5)


def test_likelihood_equals_that_of_torchs_mixture() -> None:
    mixture = random_mixture(2, 3)
    target = torch.randn(2, 3, 7)
    logits, mean, log_std = (part.transpose(-1, -2) for part in mixture)
    oracle = td.MixtureSameFamily(td.Categorical(logits=logits), td.Normal(mean, log_std.exp()))
    torch.testing.assert_close(negative_log_likelihood(mixture, target), -oracle.log_prob(target))


def test_each_latent_variable_has_weights_of_its_own() -> None:
    mixture = random_mixture(num_mixtures=5, size=2)
    target = torch.zeros(2)
    before = negative_log_likelihood(mixture, target)
    mixture.logits[3, 1] += 5.0
    after = negative_log_likelihood(mixture, target)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_outputs_are_logits_then_means_then_deviations() -> None:
    mixture = to_mixture(torch.arange(12.0), num_mixtures=2)
    assert mixture.logits.tolist() == [[0, 1], [2, 3]]
    assert mixture.mean.tolist() == [[4, 5], [6, 7]]
    assert mixture.log_std.tolist() == [[8, 9], [10, 11]]


def test_likelihood_stays_finite_far_from_every_component() -> None:
    mixture = Mixture(column(0.0, -80.0), column(0.0, 1.0), column(-5.0, -5.0))
    nll = negative_log_likelihood(mixture, torch.tensor([20.0]))
    assert torch.isfinite(nll).all()


@pytest.mark.parametrize(("temperature", "component"), [(1.0, 1), (2.0, 0)])
def test_temperature_flattens_the_weights(temperature: float, component: int) -> None:
    # weights 1/5 and 4/5; at temperature 2 they are 1/3 and 2/3
    mixture = Mixture(column(0.0, math.log(4)), column(10.0, 20.0), column(0.0, 0.0))
    drawn = sample(mixture, torch.tensor([0.3]), torch.zeros(1), temperature)
    assert drawn.item() == mixture.mean[component].item()


def test_temperature_widens_the_noise_by_its_root() -> None:
    mixture = Mixture(column(0.0), column(1.0), column(math.log(3)))
    drawn = sample(mixture, torch.zeros(1), torch.tensor([-2.0]), temperature=4.0)
    assert drawn.item() == pytest.approx(1.0 + 3.0 * 2.0 * -2.0)


@pytest.mark.parametrize(("uniform", "component"), [(0.0, 0), (1.0 - 2**-24, 2)])
def test_the_ends_of_the_unit_interval_pick_the_outer_components(
    uniform: float, component: int
) -> None:
    mixture = Mixture(column(1.0, 2.0, 1.0), column(0.0, 1.0, 2.0), column(0.0, 0.0, 0.0))
    assert sample(mixture, torch.tensor([uniform]), torch.zeros(1), 1.0).item() == component


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_samples_have_the_mixtures_moments_and_weights(temperature: float) -> None:
    size = 200_000
    logits, mean, std = column(0.3, -0.5, 1.0), column(-9.0, 0.0, 9.0), column(0.5, 1.0, 0.2)
    mixture = Mixture(*(part.expand(3, size) for part in (logits, mean, std.log())))
    drawn = sample(mixture, torch.rand(size), torch.randn(size), temperature)
    weights = (logits / temperature).softmax(0)
    variance = std.square() * temperature
    shares = torch.stack([(drawn < -4.5), (drawn.abs() <= 4.5), (drawn > 4.5)]).float().mean(1)
    torch.testing.assert_close(shares, weights.squeeze(-1), atol=5e-3, rtol=0)
    expected_mean = (weights * mean).sum()
    expected_square = (weights * (variance + mean.square())).sum()
    assert drawn.mean().item() == pytest.approx(expected_mean.item(), abs=0.1)
    assert drawn.square().mean().item() == pytest.approx(expected_square.item(), rel=0.01)
    middle = drawn[drawn.abs() <= 4.5]
    assert middle.var().item() == pytest.approx(temperature, rel=0.05)
