import pytest
import torch
from torch import nn

from wm_distributed.errors import CheckpointError
from wm_distributed.nets.loading import load_model


def state(model: nn.Module, family: str = "mine") -> dict[str, object]:
    return {"family": family, "model": model.state_dict()}


def test_a_state_that_fits_is_taken_over() -> None:
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    load_model(model, state(other), "mine")
    assert torch.equal(model.weight, other.weight)


def test_another_family_is_refused() -> None:
    with pytest.raises(CheckpointError, match="of family 'mine', got 'other'"):
        load_model(nn.Linear(2, 3), state(nn.Linear(2, 3), "other"), "mine")


def test_everything_that_does_not_fit_is_named_and_nothing_is_changed() -> None:
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(CheckpointError) as raised:
        load_model(model, state(nn.Linear(2, 4, bias=False)), "mine")
    assert "bias has nothing there and (3,) here" in str(raised.value)
    assert "weight has (4, 2) there and (3, 2) here" in str(raised.value)
    assert torch.equal(model.weight, before)
