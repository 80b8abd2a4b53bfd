"""What is replayed is what the function would have computed; recorded on a tape without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from wm_distributed.nets.captured import Captured, map_tensors, tensors_of
from wm_distributed.testing.tape import record_on_tape
from wm_distributed.types import TensorBatch


class Outcome(NamedTuple):
    total: Tensor
    parts: Mapping[str, Tensor]


class Sums:
    """Adds up what it is given, in place, as a train step changes its parameters."""

    def __init__(self) -> None:
        self.sum = torch.zeros(3)
        self.calls = 0

    def add(self, batch: TensorBatch) -> Outcome:
        self.calls += 1
        self.sum += batch.columns["value"]
        return Outcome(self.sum * 2, {"sum": self.sum.sum()})


def batch_of(*values: float) -> TensorBatch:
    return TensorBatch({"value": torch.tensor(values)})


def test_replays_read_their_arguments_and_change_what_lives_on() -> None:
    plain, replayed = Sums(), Sums()
    add = Captured(replayed.add, record_on_tape)
    kept = []
    for number in range(8):
        batch = batch_of(number, 2.0 * number, -1.0)
        expected, found = plain.add(batch), add(batch)
        assert all(map(torch.equal, tensors_of(found), tensors_of(expected)))
        kept.append((found, map_tensors(Tensor.clone, expected)))
    assert replayed.calls == 4, "three times as it is, once to be recorded"
    assert torch.equal(replayed.sum, plain.sum)
    for found, expected in kept[:-1]:
        assert torch.equal(found.total, expected.total), "a result is the caller's to keep"


def test_other_shapes_run_as_they_are() -> None:
    replayed = Sums()
    add = Captured(replayed.add, record_on_tape)
    for _ in range(5):
        add(batch_of(1.0, 1.0, 1.0))
    assert add(batch_of(2.0)).total.tolist() == [14.0, 14.0, 14.0]
    assert add(batch_of(1.0, 1.0, 1.0)).total.tolist() == [16.0, 16.0, 16.0]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: torch.ones(1).item(), "waits for the device"),
        (lambda: torch.ones(3)[torch.ones(3) > 0], "waits for the device"),
        (lambda: torch.tensor([1.0]), "made from the host's numbers"),
        (lambda: torch.randn(3), "draws random numbers"),
        (lambda: torch.rand(3).bernoulli(), "draws random numbers"),
    ],
)
def test_what_no_graph_can_hold_is_found(call: object, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        record_on_tape(call)  # type: ignore[arg-type]


def test_tensors_are_found_in_their_order() -> None:
    tree = {
        "b": [torch.tensor(1), (torch.tensor(2), None)],
        "a": TensorBatch({"x": torch.ones(())}),
    }
    assert [int(tensor) for tensor in tensors_of(tree)] == [1, 2, 1]


@pytest.mark.gpu
def test_a_cuda_graph_computes_the_same() -> None:
    plain, replayed = Sums(), Sums()
    plain.sum, replayed.sum = plain.sum.cuda(), replayed.sum.cuda()
    add = Captured(replayed.add)
    for number in range(8):
        batch = map_tensors(Tensor.cuda, batch_of(number, 2.0 * number, -1.0))
        assert all(map(torch.equal, tensors_of(add(batch)), tensors_of(plain.add(batch))))
    assert replayed.calls == 4
