from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
import torch

from learners.batch_stream import BatchStream, Sampled
from learners.groups import Meetings, PartsBoard
from learners.learner import Learner
from wm_distributed.api import DataSpec, Phase, Report, TrainOutput
from wm_distributed.config import LearnerConfig
from wm_distributed.testing import FakeWeights
from wm_distributed.types import Array, StepAddresses, TensorBatch

DATA = DataSpec(batch_size=4, length=6, context=1)
TOKENIZER = [Phase(name="tokenizer", data=DATA, steps=2)]
OTHERS = [
    Phase(name="model", data=DATA, steps=1, first_cycle=1),
    Phase(name="policy", data=DATA, steps=1, first_cycle=2),
]


class Board:
    """One group's side of a board in this process."""

    def __init__(self, board: PartsBoard[Mapping[str, Array]], group: int, version: int = 0):
        self._board, self._group, self.version = board, group, version

    def give(self, cycle: int, parts: Mapping[str, Array], *, last: bool) -> None:
        self._board.give(self._group, cycle, parts, last=last)

    def take(self, cycle: int, timeout_seconds: float) -> Mapping[str, Array] | None:
        given = self._board.take(self._group, cycle)
        return None if given is None else {n: part for parts in given for n, part in parts.items()}

    def newest_version(self) -> int:
        return self.version


class Parted:
    """Counts the steps of each phase, its part; the history tells what each step knew."""

    def __init__(self) -> None:
        self.counts = {"tokenizer": 0, "model": 0, "policy": 0}
        self.history: list[tuple[str, dict[str, int]]] = []

    def init_train(self, phase: str, batch_size: int) -> None:
        return None

    def train_step(self, phase: str, carry: None, batch: TensorBatch) -> tuple[None, TrainOutput]:
        self.history.append((phase, dict(self.counts)))
        self.counts[phase] += 1
        return None, TrainOutput({"loss": 0.0})

    def report(self, phase: str, batch: TensorBatch) -> Report:
        return Report()

    def policy_weights(self) -> Array:
        return np.zeros(8, np.uint8)

    def part_weights(self, phase: str) -> Array:
        return np.array([self.counts[phase]], np.uint8)

    def load_part(self, phase: str, buffer: Array) -> None:
        self.counts[phase] = int(buffer[0])

    def state_dict(self) -> dict[str, Any]:
        return dict(self.counts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts = dict(state)


class EmptyBatches:
    """A stream of batches that hold nothing."""

    def next(self, timeout_seconds: float) -> Sampled:
        none = np.zeros((4, 7), np.int64)
        return Sampled(TensorBatch({}, context=1), StepAddresses(none, none, none), None)

    def waited_seconds(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        pass


def group(
    board: PartsBoard[Mapping[str, Array]], number: int, phases: list[Phase], *, acts: bool
) -> tuple[Learner, Parted]:
    trainable, names = Parted(), [phase.name for phase in phases]
    learner = Learner(
        trainable,
        phases,
        dict.fromkeys(names, cast(BatchStream, EmptyBatches())),
        LearnerConfig(),
        device=torch.device("cpu"),
        sink=FakeWeights() if acts else None,
        meetings=Meetings(Board(board, number, version=7), trainable, names, gives=True, acts=acts),
    )
    learner.start()
    return learner, trainable


def test_parts_are_taken_once_every_other_group_is_ready() -> None:
    board: PartsBoard[str] = PartsBoard(3)
    board.give(0, 4, "a4", last=False)
    board.give(1, 4, "b4", last=False)
    assert board.take(0, 4) is None
    board.give(2, 5, "c5", last=False)
    assert board.take(0, 4) == ["b4", "c5"]
    assert board.take(2, 5) is None
    assert board.take(2, 4) == ["a4", "b4"]


def test_the_slow_get_the_parts_of_their_cycle_and_not_newer_ones() -> None:
    board: PartsBoard[str] = PartsBoard(2)
    for cycle in range(4):
        board.give(0, cycle, f"a{cycle}", last=False)
    assert board.take(1, 2) == ["a2"]
    assert board.take(1, 3) == ["a3"]
    assert board.take(1, 0) == ["a2"]  # the oldest that is kept


def test_nobody_waits_for_a_group_that_is_done() -> None:
    board: PartsBoard[str] = PartsBoard(2)
    board.give(0, 3, "a3", last=True)
    assert board.take(1, 90) == ["a3"]


def test_a_group_that_has_lost_cycles_is_waited_for_again() -> None:
    board: PartsBoard[str] = PartsBoard(2)
    board.give(0, 6, "a6", last=False)
    board.give(0, 2, "a2", last=False)
    assert board.take(1, 6) is None
    board.give(0, 6, "again", last=False)
    assert board.take(1, 6) == ["again"]


def test_groups_train_each_cycle_at_once_on_what_the_others_knew_before_it() -> None:
    board: PartsBoard[Mapping[str, Array]] = PartsBoard(2)
    first, tokenizer = group(board, 0, TOKENIZER, acts=False)
    second, others = group(board, 1, OTHERS, acts=True)
    assert not second.step(), "its first phase takes part from cycle 1 on"
    for _ in range(4):
        assert first.step()
    assert not first.step(), "the other group has not begun cycle 1"
    assert second.step()
    assert others.history == [("model", {"tokenizer": 2, "model": 0, "policy": 0})]
    for _ in range(2):
        assert first.step()
    assert tokenizer.history[-1] == ("tokenizer", {"tokenizer": 5, "model": 1, "policy": 0})
    for _ in range(2):
        assert second.step()
    assert others.history[1:] == [
        ("model", {"tokenizer": 4, "model": 1, "policy": 0}),
        ("policy", {"tokenizer": 4, "model": 2, "policy": 0}),
    ]


def test_a_group_that_ends_gives_what_it_trained_last_and_holds_nobody() -> None:
    board: PartsBoard[Mapping[str, Array]] = PartsBoard(2)
    brief = [Phase(name="tokenizer", data=DATA, steps=2, num_cycles=1)]
    first, _ = group(board, 0, brief, acts=False)
    second, others = group(board, 1, OTHERS, acts=True)
    while first.step():
        pass
    assert first.finished
    first.finish()
    for _ in range(5):
        assert second.step()
    assert others.history[0] == ("model", {"tokenizer": 2, "model": 0, "policy": 0})


@pytest.mark.parametrize(("acts", "version"), [(True, 1), (False, 7)])
def test_versions_are_those_of_the_group_with_whose_weights_actors_act(
    acts: bool, version: int
) -> None:
    board: PartsBoard[Mapping[str, Array]] = PartsBoard(2)
    learner, _ = group(board, 0, TOKENIZER, acts=acts)
    assert learner.stats()["learner/version"] == version
