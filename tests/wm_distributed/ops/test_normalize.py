import numpy as np
import pytest
import torch
from torch import Tensor

from wm_distributed.collective import Collective
from wm_distributed.ops.normalize import PercentileScale


class TwoRanks(Collective):
    """A group whose other rank always contributes ``other``."""

    def __init__(self, other: Tensor) -> None:
        super().__init__()
        self.other = other

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat([tensor, self.other])


def test_the_range_follows_the_percentiles_slowly() -> None:
    scale = PercentileScale(Collective(), rate=0.25)
    values = torch.randn(3, 40) * 30.0
    low, high = np.percentile(values.numpy(), [5, 95])
    scale.update(values)
    assert scale.range.tolist() == pytest.approx([0.25 * low, 0.25 * high], rel=1e-4)
    scale.update(values)
    assert scale.scale().item() == pytest.approx(0.4375 * (high - low), rel=1e-4)


def test_small_returns_are_not_blown_up() -> None:
    scale = PercentileScale(Collective(), rate=1.0)
    scale.update(torch.linspace(0.0, 0.01, 100))
    assert scale.scale().item() == 1.0


def test_percentiles_are_those_of_all_ranks_together() -> None:
    other = torch.linspace(100.0, 200.0, 50)
    own = torch.linspace(0.0, 10.0, 50)
    scale = PercentileScale(TwoRanks(other), rate=1.0)
    scale.update(own)
    low, high = np.percentile(torch.cat([own, other]).numpy(), [5, 95])
    assert scale.range.tolist() == pytest.approx([low, high], rel=1e-4)


def test_percentiles_are_those_of_all_micro_batches_together() -> None:
    values = torch.cat([torch.linspace(0.0, 10.0, 50), torch.linspace(100.0, 200.0, 50)])
    scale = PercentileScale(Collective(), rate=1.0, micro_batches=2)
    for _ in "ab":  # the second time shows that nothing of the first is left
        scale.update(values[:50])
        scale.update(values[50:])
    low, high = np.percentile(values.numpy(), [5, 95])
    assert scale.range.tolist() == pytest.approx([low, high], rel=1e-4)


def test_the_range_moves_with_the_last_micro_batch() -> None:
    scale = PercentileScale(Collective(), micro_batches=2)
    scale.update(torch.randn(50) * 50.0)
    assert scale.range.tolist() == [0.0, 0.0]


def test_the_range_travels_with_the_state() -> None:
    scale = PercentileScale(Collective())
    scale.update(torch.randn(100) * 50.0)
    restored = PercentileScale(Collective())
    restored.load_state_dict(scale.state_dict())
    assert torch.equal(restored.range, scale.range)
    assert list(scale.state_dict()) == ["range"]
