import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from learners.batch_stream import BatchStream, Sampled
from learners.learner import Learner
from wm_distributed.api import DataSpec, Phase
from wm_distributed.errors import ConfigError, EndOfSweepError, ReplayError
from wm_distributed.testing import FakeReplay, FakeWeights
from wm_distributed.types import StepAddresses, TensorBatch

Make = Callable[..., Learner]


DATA = DataSpec(batch_size=4, length=6, context=1)


# --------------------------------------------------------------------------- phases that take turns


def test_phases_take_turns_each_with_a_fresh_carry(make_learner: Make, recorder: Any) -> None:
    phases = [
        Phase(name="a", data=DATA, steps=2),
        Phase(name="b", data=dataclasses.replace(DATA, batch_size=8), steps=1),
    ]
    learner = make_learner(recorder, phases=phases)
    names = []
    for _ in range(5):
        names.append(learner.phase)
        learner.step()
    assert names == ["a", "a", "b", "a", "a"]
    assert recorder.calls == [
        ("init", "a", 4), ("a", 0), ("a", 1),
        ("init", "b", 8), ("b", 0),
        ("init", "a", 4), ("a", 0), ("a", 1),
        ("init", "b", 8),
    ]  # fmt: skip


def test_a_resumed_learner_goes_on_in_the_middle_of_a_phase(make_learner: Make) -> None:
    phases = [Phase(name="a", data=DATA, steps=2), Phase(name="b", data=DATA, steps=3)]
    first = make_learner(phases=phases)
    for _ in range(3):
        first.step()
    second = make_learner(phases=phases)
    second.load_state_dict(first.state_dict())
    names = []
    for _ in range(3):
        names.append(second.phase)
        second.step()
    assert names == ["b", "b", "a"]
    assert second.train_steps == 6


def test_a_phase_takes_part_from_its_first_cycle_on_and_so_after_a_resume(
    make_learner: Make,
) -> None:
    phases = [
        Phase(name="a", data=DATA, steps=2),
        Phase(name="b", data=DATA, steps=1, first_cycle=2),
        Phase(name="c", data=DATA, steps=1, first_cycle=1),
    ]
    first = make_learner(phases=phases)
    names = []
    for _ in range(4):
        names.append(first.phase)
        first.step()
    second = make_learner(phases=phases)
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        names.append(second.phase)
        second.step()
    assert "".join(names) == "aa" + "aac" + "aabc"


def test_a_phase_leaves_after_its_cycles_and_so_after_a_resume(make_learner: Make) -> None:
    phases = [
        Phase(name="a", data=DATA, steps=1, num_cycles=2),
        Phase(name="b", data=DATA, steps=1, first_cycle=1, num_cycles=2),
        Phase(name="c", data=DATA, steps=1, first_cycle=4),
        Phase(name="d", data=DATA, steps=1),
    ]
    first = make_learner(phases=phases)
    names = []
    for _ in range(6):
        names.append(first.phase)
        first.step()
    second = make_learner(phases=phases)
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        names.append(second.phase)
        second.step()
    assert "".join(names) == "ad" + "abd" + "bd" + "d" + "cd" + "cd"


@pytest.mark.parametrize(
    "phase",
    [Phase(name="search", data=None, kind="population"), Phase(name="empty", data=None)],
)
def test_a_phase_that_a_learner_cannot_run_is_refused(phase: Phase, make_learner: Make) -> None:
    with pytest.raises(ConfigError, match=f"phase '{phase.name}'"):
        make_learner(phases=[phase])


# ---------------------------------------------- phases that follow each other, with a sweep between


SWEPT = DataSpec(batch_size=4, length=1, columns=("is_first", "latent_version"))


PIPELINE = [
    Phase(name="first", data=DATA, steps=2),
    Phase(name="encode", data=SWEPT, kind="sweep"),
    Phase(name="second", data=DATA, steps=3),
]


class Constant:
    """A stream of batches whose latents are of one version; it may end, and begins again then."""

    def __init__(self, latent_version: int, num_batches: int | None = None) -> None:
        self.latent_version = latent_version
        self.num_batches = num_batches
        self.given = 0

    def next(self, timeout_seconds: float) -> Sampled:
        self.given += 1
        if self.num_batches and self.given % (self.num_batches + 1) == 0:
            raise EndOfSweepError("all given")
        shape = (4, 7)
        columns = {"latent_version": torch.full(shape, self.latent_version, dtype=torch.int32)}
        slots = np.zeros(shape, np.int64)
        addresses = StepAddresses(np.zeros(4, np.int64), slots, slots)
        return Sampled(TensorBatch(columns), addresses, self.latent_version)

    def waited_seconds(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def pipeline(make_learner: Make, filled_replay: Callable[..., FakeReplay]) -> Make:
    def make(trainable: Any = None, latent_version: int = 100, **changes: Any) -> Learner:
        stream = BatchStream(filled_replay(), torch.device("cpu"))
        streams = {"first": stream, "encode": Constant(0, 3), "second": Constant(latent_version)}
        changes |= {"phases": PIPELINE, "streams": streams, "repeat": False}
        return make_learner(trainable, **changes)

    return make


def steps_by_phase(calls: list[Any]) -> list[tuple[str, int]]:
    """Each phase in turn, with its batches."""
    names = [name for name, number in calls if isinstance(number, int) and name != "load"]
    return [(name, len(list(group))) for name, group in itertools.groupby(names)]


def test_a_pipeline_runs_each_phase_once_and_is_finished(pipeline: Make, recorder: Any) -> None:
    sink = FakeWeights()
    learner = pipeline(recorder, sink=sink)
    learner.run(lambda: False)
    assert learner.finished
    assert not learner.step()
    calls = [call for call in recorder.calls if len(call) == 2]
    assert steps_by_phase(calls) == [("first", 2), ("encode", 3), ("second", 3)]
    assert learner.train_steps == 5  # a sweep trains nothing
    # At the end of a phase, before the sweep, and every three steps.
    assert [w.train_steps for w in sink.published] == [2, 2, 3, 5]


@pytest.mark.parametrize(("batches", "before_end"), [(1, "first"), (3, "encode"), (7, "second")])
def test_a_resumed_pipeline_sweeps_again_and_goes_on(
    batches: int, before_end: str, pipeline: Make, recorder: Any
) -> None:
    learner = pipeline()
    for _ in range(batches):
        learner.step()
    assert learner.phase == before_end
    state = learner.state_dict()
    done = {"first": batches, "encode": 2, "second": 3}[before_end]

    resumed = pipeline(recorder)
    resumed.load_state_dict(state)
    resumed.run(lambda: False)
    calls = [call for call in recorder.calls if len(call) == 2]
    ended = [("encode", 3), ("second", 3)]
    expected = {
        "first": [("first", 1), *ended],
        "encode": ended,
        "second": [("encode", 3), ("second", 2)],
    }
    assert steps_by_phase(calls) == expected[before_end]
    assert resumed.train_steps == 5
    assert learner.train_steps == done


def test_a_finished_pipeline_stays_finished(pipeline: Make) -> None:
    learner = pipeline()
    learner.run(lambda: False)
    resumed = pipeline()
    resumed.load_state_dict(learner.state_dict())
    assert resumed.finished
    assert not resumed.step()


def test_a_step_that_the_sweep_has_left_out_is_refused(pipeline: Make) -> None:
    learner = pipeline(latent_version=1)
    with pytest.raises(ReplayError, match="'second' got a step whose latents are of version 1"):
        learner.run(lambda: False)
