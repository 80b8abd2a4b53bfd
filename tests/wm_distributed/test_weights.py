"""Weights travel as one buffer and are refused by another model."""

import numpy as np
import pytest
import torch
from torch import nn

from wm_distributed.errors import CheckpointError
from wm_distributed.weights import pack_weights, unpack_weights


def make_module(width: int = 5) -> nn.Module:
    module = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))  # holds an int64 buffer too
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def test_unpacked_weights_equal_the_packed_ones() -> None:
    source, target = make_module(), make_module()
    source[1].num_batches_tracked += 7
    unpack_weights(pack_weights(source.state_dict()), target.state_dict())
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], tensor, rtol=0, atol=0)


def test_packing_copies_so_that_later_training_does_not_change_the_buffer() -> None:
    module = make_module()
    buffer = pack_weights(module.state_dict())
    before = buffer.copy()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(buffer, before)


def test_unpacking_accepts_read_only_memory() -> None:
    module = make_module()
    buffer = pack_weights(module.state_dict())
    buffer.setflags(write=False)
    unpack_weights(buffer, make_module().state_dict())


@pytest.mark.parametrize("damage", ["other width", "cut", "empty", "renamed"])
def test_weights_of_another_model_are_refused(damage: str) -> None:
    buffer = pack_weights(make_module().state_dict())
    target = dict(make_module(6 if damage == "other width" else 5).state_dict())
    if damage == "cut":
        buffer = buffer[:-1]
    elif damage == "empty":
        buffer = buffer[:0]
    elif damage == "renamed":
        target = {f"other.{name}": tensor for name, tensor in target.items()}
    with pytest.raises(CheckpointError, match="weights of another model"):
        unpack_weights(buffer, target)
