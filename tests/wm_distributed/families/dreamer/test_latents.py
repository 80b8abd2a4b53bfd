import pytest
import torch

from wm_distributed.families.dreamer.latents import CategoricalLatent, GaussianLatent, Latent

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("latent", "dtype"),
    [(CategoricalLatent(5, 3, 0.01), torch.uint8), (GaussianLatent(5), torch.float16)],
)
def test_samples_survive_replay(latent: Latent, dtype: torch.dtype) -> None:
    dist = latent.dist(torch.randn(4, 6, latent.raw_size))
    sample = latent.sample(dist, latent.noise(4, 6, device=CPU, generator=None))
    assert sample.shape == (4, 6, latent.flat_size)
    stored = latent.to_replay(sample)
    assert stored.shape == (4, 6, 5)
    assert stored.dtype == dtype
    torch.testing.assert_close(latent.from_replay(stored), sample, atol=1e-2, rtol=1e-2)


def test_equal_generators_give_equal_noise() -> None:
    for latent in (CategoricalLatent(5, 3, 0.01), GaussianLatent(5)):
        first, second = (
            latent.noise(2, device=CPU, generator=torch.Generator().manual_seed(3)) for _ in "ab"
        )
        assert torch.equal(first, second)


def test_gaussian_figures_equal_those_of_torch_distributions() -> None:
    latent = GaussianLatent(5)
    left, right = latent.dist(torch.randn(2, 4, latent.raw_size)).unbind()
    normal = [torch.distributions.Normal(*dist.unbind(-2)) for dist in (left, right)]
    expected = torch.distributions.kl_divergence(*normal).sum(-1)
    torch.testing.assert_close(latent.kl(left, right), expected)
    torch.testing.assert_close(latent.entropy(left), normal[0].entropy().sum(-1))


def test_gaussian_samples_have_the_mean_and_deviation_asked_for() -> None:
    latent = GaussianLatent(2)
    dist = latent.dist(torch.tensor([1.0, -2.0, 0.0, 1.0])).expand(20_000, 2, 2)
    sample = latent.sample(dist, latent.noise(20_000, device=CPU, generator=None))
    torch.testing.assert_close(sample.mean(0), torch.tensor([1.0, -2.0]), atol=0.03, rtol=0.0)
    expected = torch.tensor([0.6931 + 0.1, 1.3133 + 0.1])  # softplus(0), softplus(1)
    torch.testing.assert_close(sample.std(0), expected, atol=0.03, rtol=0.0)


def test_a_posterior_equal_to_the_prior_has_no_divergence() -> None:
    for latent in (CategoricalLatent(5, 3, 0.01), GaussianLatent(5)):
        dist = latent.dist(torch.randn(4, latent.raw_size))
        torch.testing.assert_close(latent.kl(dist, dist), torch.zeros(4), atol=1e-6, rtol=0.0)
