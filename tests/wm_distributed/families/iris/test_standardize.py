import torch

from wm_distributed.collective import Collective
from wm_distributed.families.iris.standardize import Standardize


def followed(*batches: torch.Tensor) -> Standardize:
    module = Standardize(4)
    for batch in batches:
        module.follow(batch, Collective())
    return module


def test_nothing_is_changed_before_the_first_batch() -> None:
    frames = torch.rand(2, 3, 4, 4)
    assert torch.equal(Standardize(4)(frames), frames)


def test_frames_have_no_mean_and_size_one_afterwards() -> None:
    frames = 0.5 + 0.1 * torch.randn(500, 3, 4, 4) + torch.rand(3, 4, 4)
    module = followed(frames)
    out = module(frames)
    torch.testing.assert_close(out.mean(0), torch.zeros(3, 4, 4), atol=1e-4, rtol=0.0)
    assert abs(float(out.std()) - 1.0) < 1e-3


def test_the_first_batches_count_alike() -> None:
    batches = [torch.full((2, 3, 4, 4), value) for value in (0.0, 0.3, 0.9)]
    torch.testing.assert_close(followed(*batches).mean, torch.full((3, 4, 4), 0.4))


def test_later_on_the_mean_moves() -> None:
    old, new = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    module = followed(*[old] * 300, *[new] * 100)
    share = 1.0 - 0.99**100
    torch.testing.assert_close(module.mean, torch.full((3, 4, 4), share), atol=1e-3, rtol=0.0)


def test_frames_that_are_all_the_same_stay_finite() -> None:
    frames = torch.full((4, 3, 4, 4), 0.2)
    module = followed(*[frames] * 3)
    assert module(frames).isfinite().all()
