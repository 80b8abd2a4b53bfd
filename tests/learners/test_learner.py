import dataclasses
import itertools
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.env_loop import EnvLoop
from learners.batch_stream import BatchStream, PrefetchingBatchStream, Sampled
from learners.learner import Learner
from learners.parameter_server import ParameterServer
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import DataSpec, Phase, Report, TrainContext, TrainOutput
from wm_distributed.checkpoint import Checkpointer
from wm_distributed.collective import Collective
from wm_distributed.config import LearnerConfig, ReplayConfig
from wm_distributed.errors import (
    ConfigError,
    DeadlineError,
    DivergedError,
    EndOfSweepError,
    ReplayError,
    RunDirError,
)
from wm_distributed.metrics import FREE_PREFIXES, METRICS
from wm_distributed.testing import (
    CountingConfig,
    CountingVectorEnv,
    FakeRateLimiter,
    FakeReplay,
    FakeWeights,
    check_counting_columns,
)
from wm_distributed.testing.counting_models import CountingPolicy, CountingTrainable
from wm_distributed.types import Array, StepAddresses, StreamId, TensorBatch

CPU = torch.device("cpu")
SPACES = CountingVectorEnv(1).spaces
DATA = DataSpec(batch_size=4, length=6, context=1)
PHASES = [Phase(name="counting", data=DATA)]


class Recorder:
    """A trainable that writes down what it is asked."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init_train(self, phase: str, batch_size: int) -> int:
        self.calls.append(("init", phase, batch_size))
        return 0

    def train_step(self, phase: str, carry: int, batch: TensorBatch) -> tuple[int, TrainOutput]:
        self.calls.append((phase, carry))
        return carry + 1, TrainOutput({"loss": torch.tensor(float(carry))})

    def report(self, phase: str, batch: TensorBatch) -> Report:
        self.calls.append("report")
        return Report({"reported": float(len(self.calls))})

    def policy_weights(self) -> Array:
        return np.zeros(10, np.uint8)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls.append(("load", state["calls"]))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def filled_replay(seed: int = 0, env_steps: int = 400) -> FakeReplay:
    """Replay with what the counting policy did in two counting environments."""
    replay = FakeReplay(batch_size=4, length=6, context=1, seed=seed)
    loop = EnvLoop(
        lambda restart: CountingVectorEnv(2),
        CountingPolicy(SPACES, 0),
        replay,
        FakeRateLimiter(env_steps),
        FakeWeights(),
        actor=0,
        incarnation=0,
        chunk_steps=10,
    )
    while loop.run_chunk(0):
        pass
    loop.close()
    return replay


def counting_trainable(seed: int = 0) -> CountingTrainable:
    context = TrainContext("cpu", "float32", False, seed, Collective())
    return CountingTrainable(CountingConfig(data=DATA, check_data=True), SPACES, context)


def make(trainable: Any, replay: FakeReplay | None = None, **changes: Any) -> Learner:
    names = [phase.name for phase in changes.get("phases", PHASES)]
    stream = BatchStream(replay or filled_replay(), CPU)
    arguments: dict[str, Any] = {
        "phases": PHASES,
        "streams": dict.fromkeys(names, stream),
        "config": LearnerConfig(publish_every_steps=3, log_every_steps=5),
        "device": CPU,
    } | changes
    return Learner(trainable, **arguments)


def test_weights_are_published_at_the_start_then_every_so_many_steps_and_at_the_end() -> None:
    sink = FakeWeights()
    learner = make(Recorder(), sink=sink)
    learner.start()
    for _ in range(7):
        assert learner.step()
    learner.finish()
    assert [(w.version, w.train_steps) for w in sink.published] == [(1, 0), (2, 3), (3, 6), (4, 7)]
    assert learner.stats()["learner/publish_bytes"] == 10


def test_ranks_meet_after_each_publication_so_that_none_waits_for_what_it_brings() -> None:
    class Meeting(Collective):
        def meet(self) -> None:
            met.append(len(sink.published))

    met: list[int] = []
    sink = FakeWeights()
    learner = make(Recorder(), sink=sink, collective=Meeting())
    learner.start()
    for _ in range(3):
        learner.step()
    learner.finish()
    assert met == [1, 2, 2]


def test_weights_already_published_are_not_published_again_at_the_end() -> None:
    sink = FakeWeights()
    learner = make(Recorder(), sink=sink)
    learner.start()
    for _ in range(3):
        learner.step()
    learner.finish()
    assert [w.version for w in sink.published] == [1, 2]


def test_a_resumed_learner_publishes_a_version_that_is_newer_than_what_actors_have() -> None:
    server = ParameterServer()
    first = make(Recorder(), sink=server)
    first.start()
    saved = first.state_dict()
    for _ in range(9):
        first.step()
    assert server.version == 4
    second = make(Recorder(), sink=server)
    second.load_state_dict(saved)
    second.start(newest_version=server.version)
    assert server.version == 5


def test_a_step_without_a_batch_says_so_and_counts_nothing() -> None:
    learner = make(Recorder(), FakeReplay(batch_size=4, length=6, context=1))
    learner.start()
    assert not learner.step()
    assert learner.train_steps == 0


def test_phases_take_turns_each_with_a_fresh_carry() -> None:
    phases = [
        Phase(name="a", data=DATA, steps=2),
        Phase(name="b", data=dataclasses.replace(DATA, batch_size=8), steps=1),
    ]
    trainable = Recorder()
    learner = make(trainable, phases=phases)
    names = []
    for _ in range(5):
        names.append(learner.phase)
        learner.step()
    assert names == ["a", "a", "b", "a", "a"]
    assert trainable.calls == [
        ("init", "a", 4), ("a", 0), ("a", 1),
        ("init", "b", 8), ("b", 0),
        ("init", "a", 4), ("a", 0), ("a", 1),
        ("init", "b", 8),
    ]  # fmt: skip


def test_a_resumed_learner_goes_on_in_the_middle_of_a_phase() -> None:
    phases = [Phase(name="a", data=DATA, steps=2), Phase(name="b", data=DATA, steps=3)]
    first = make(Recorder(), phases=phases)
    for _ in range(3):
        first.step()
    second = make(Recorder(), phases=phases)
    second.load_state_dict(first.state_dict())
    names = []
    for _ in range(3):
        names.append(second.phase)
        second.step()
    assert names == ["b", "b", "a"]
    assert second.train_steps == 6


def test_a_phase_takes_part_from_its_first_cycle_on_and_so_after_a_resume() -> None:
    phases = [
        Phase(name="a", data=DATA, steps=2),
        Phase(name="b", data=DATA, steps=1, first_cycle=2),
        Phase(name="c", data=DATA, steps=1, first_cycle=1),
    ]
    first = make(Recorder(), phases=phases)
    names = []
    for _ in range(4):
        names.append(first.phase)
        first.step()
    second = make(Recorder(), phases=phases)
    second.load_state_dict(first.state_dict())
    for _ in range(5):
        names.append(second.phase)
        second.step()
    assert "".join(names) == "aa" + "aac" + "aabc"


def test_a_phase_leaves_after_its_cycles_and_so_after_a_resume() -> None:
    phases = [
        Phase(name="a", data=DATA, steps=1, num_cycles=2),
        Phase(name="b", data=DATA, steps=1, first_cycle=1, num_cycles=2),
        Phase(name="c", data=DATA, steps=1, first_cycle=4),
        Phase(name="d", data=DATA, steps=1),
    ]
    first = make(Recorder(), phases=phases)
    names = []
    for _ in range(6):
        names.append(first.phase)
        first.step()
    second = make(Recorder(), phases=phases)
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        names.append(second.phase)
        second.step()
    assert "".join(names) == "ad" + "abd" + "bd" + "d" + "cd" + "cd"


@pytest.mark.parametrize(
    "phase",
    [Phase(name="search", data=None, kind="population"), Phase(name="empty", data=None)],
)
def test_a_phase_that_a_learner_cannot_run_is_refused(phase: Phase) -> None:
    with pytest.raises(ConfigError, match=f"phase '{phase.name}'"):
        make(Recorder(), phases=[phase])


def test_latents_are_written_back_to_the_steps_that_they_belong_to() -> None:
    replay = filled_replay()
    learner = make(counting_trainable(), replay)
    learner.start()
    for _ in range(30):
        learner.step()
    for env in range(2):
        (columns,) = replay.runs(StreamId(0, 0, env))
        # The trainable writes back what it was given: had one row gone astray, this would fail.
        check_counting_columns(columns)
        assert columns["latent_version"].min() >= 0
        assert columns["latent_version"].max() == 10  # in force at step 30: 1 + 29 // 3
        assert set(columns["policy_version"]) == {0}
    assert {update.addresses.slot.shape for update in replay.updates} == {(4, 6)}
    assert all(update.priorities is None for update in replay.updates)  # nobody uses them


def test_stats_are_named_as_in_the_table_and_hold_means_of_the_window() -> None:
    learner = make(Recorder())
    learner.start()
    for _ in range(4):
        learner.step()
    assert "train/loss" not in learner.stats()  # read every five steps
    learner.step()
    stats = learner.stats()
    assert stats["train/loss"] == np.mean([0, 1, 2, 3, 4])
    assert stats["learner/train_steps"] == 5
    assert stats["learner/version"] == 2
    assert stats["learner/policy_lag_mean"] == 2.0  # everything was acted with version 0
    assert stats["learner/latent_age_mean"] == 2.0
    assert stats["learner/policy_lag_max"] == stats["learner/policy_lag_p95"] == 2.0
    assert 0 < stats["learner/wait_share"] < 1
    assert stats["learner/train_steps_per_second"] > 0
    unknown = [n for n in stats if n not in METRICS and not n.startswith(FREE_PREFIXES)]
    assert unknown == []


def test_refreshed_latents_are_younger_than_the_policy_that_acted() -> None:
    replay = filled_replay(env_steps=40)
    learner = make(counting_trainable(), replay)
    learner.start()
    for _ in range(60):
        learner.step()
    stats = learner.stats()
    assert stats["learner/policy_lag_mean"] == 20  # the version before the last publication
    assert stats["learner/latent_age_mean"] < 5
    ages = [stats[f"learner/latent_age_{name}"] for name in ("mean", "p95", "max")]
    assert ages == sorted(ages)
    assert ages[0] < ages[2] <= 20


def test_a_learner_tells_its_limits_what_is_newest_and_counts_what_is_stale() -> None:
    ages = AgeLimits(ReplayConfig(max_policy_lag=1))
    learner = make(Recorder(), ages=ages)
    learner.start()
    assert ages.newest_version == 1
    ages.stale_sequences = 7
    assert learner.stats()["learner/stale_sequences"] == 7
    learner.finish()
    assert ages.newest_version == learner.stats()["learner/version"]


def test_reports_come_when_due_and_are_taken_once() -> None:
    clock, trainable = Clock(), Recorder()
    config = LearnerConfig(report_every_seconds=10.0)
    learner = make(trainable, config=config, clock=clock)
    learner.step()
    assert learner.take_report() is None
    clock.now = 10.0
    learner.step()
    # Made before the step, on a batch that the step had not trained on.
    assert trainable.calls[-2:] == ["report", ("counting", 1)]
    learner.step()
    assert trainable.calls.count("report") == 1
    report = learner.take_report()
    assert report is not None
    assert learner.take_report() is None
    learner.finish()
    assert trainable.calls.count("report") == 2
    assert learner.take_report() is not None


def checkpointer(directory: Path) -> Checkpointer:
    return Checkpointer(directory, family="counting", preset="p", fingerprint="f", keep=10)


def test_checkpoints_are_saved_when_due_when_asked_and_at_the_end(tmp_path: Path) -> None:
    clock, files = Clock(), checkpointer(tmp_path)
    config = LearnerConfig(checkpoint_every_seconds=60.0)
    learner = make(Recorder(), config=config, clock=clock, checkpointer=files)
    learner.step()
    assert not files.exists()
    clock.now = 60.0
    learner.step()  # saves, then trains
    learner.step()
    assert files.load().manifest.counters == {"train_steps": 1, "version": 0}
    learner.request(learner.snapshot)
    learner.step()
    assert files.load().manifest.counters["train_steps"] == 3
    learner.step()
    learner.finish()
    assert files.load().state["train_steps"] == 5
    assert "learner/checkpoint_seconds" in learner.stats()


def test_the_best_evaluation_decides_which_weights_are_the_final_ones(tmp_path: Path) -> None:
    trainable = counting_trainable()
    learner = make(trainable, checkpointer=checkpointer(tmp_path))
    learner.start()
    asked, evaluated = [], {}
    for score in (1.0, 3.0, 2.0):
        asked.append(learner.request(learner.snapshot))
        assert not asked[-1].done()
        learner.step()
        weights = asked[-1].result(0)
        evaluated[weights.train_steps] = weights.buffer
        learner.request(partial(learner.keep_if_best, weights.train_steps, score))
    assert list(evaluated) == [0, 1, 2]
    learner.finish()
    newest = learner.final_weights("newest")
    assert newest.train_steps == 3
    best = learner.final_weights("best")
    assert best.train_steps == 1
    assert np.array_equal(best.buffer, evaluated[1])
    assert not np.array_equal(best.buffer, evaluated[0])
    assert not np.array_equal(best.buffer, newest.buffer)


def test_a_damaged_best_checkpoint_leaves_the_newest_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner = make(counting_trainable(), checkpointer=checkpointer(tmp_path))
    assert learner.snapshot().train_steps == 0
    learner.keep_if_best(0, 1.0)
    learner.step()
    (tmp_path / "best.json").write_text("{")
    assert learner.final_weights("best").train_steps == 1
    assert "the newest weights stand in" in caplog.text


def test_what_fails_between_two_steps_ends_the_training_and_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    learner = make(Recorder(), checkpointer=checkpointer(directory))
    directory.rmdir()
    asked = learner.request(learner.snapshot)
    with pytest.raises(RunDirError, match="cannot write a checkpoint"):
        learner.step()
    assert isinstance(asked.exception(0), RunDirError)


def test_a_resumed_run_trains_exactly_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    def batches(replay: FakeReplay, count: int) -> None:
        for _ in range(count):
            replay.sample()

    whole = counting_trainable()
    learner = make(whole)
    learner.start()
    for _ in range(20):
        learner.step()

    first = make(counting_trainable(), checkpointer=checkpointer(tmp_path))
    first.start()
    for _ in range(12):
        first.step()
    first.finish()
    drawn = torch.randn(3)

    replay = filled_replay()
    batches(replay, 12)
    resumed = counting_trainable(seed=99)
    second = make(resumed, replay)
    second.load_state_dict(checkpointer(tmp_path).load().state)
    assert torch.equal(torch.randn(3), drawn)  # the random state is back
    second.start()
    for _ in range(8):
        second.step()
    assert second.train_steps == 20
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert not torch.equal(resumed.model.weight, counting_trainable().model.weight)


def test_run_trains_until_told_to_stop() -> None:
    learner = make(Recorder())
    learner.start()
    learner.run(lambda: learner.train_steps >= 13)
    assert learner.train_steps == 13


def test_a_deadline_of_prefetched_batches_ends_the_run() -> None:
    empty = FakeReplay(batch_size=4, length=6, context=1)
    stream = PrefetchingBatchStream(empty, CPU, 1)
    learner = make(Recorder(), streams={"counting": stream})
    with pytest.raises(DeadlineError, match="no unbroken run of 7 steps"):
        learner.run(lambda: False)


def test_what_was_trained_is_saved_when_no_further_batch_comes(tmp_path: Path) -> None:
    files, stream = checkpointer(tmp_path), BatchStream(filled_replay(), CPU)
    sample = stream.next

    def next_batch(timeout_seconds: float) -> Sampled | None:
        if learner.train_steps == 7:
            raise DeadlineError("no shard holds a sequence")
        return sample(timeout_seconds)

    stream.next = next_batch  # type: ignore[method-assign]
    learner = make(counting_trainable(), checkpointer=files, streams={"counting": stream})
    with pytest.raises(DeadlineError, match="no shard holds"):
        learner.run(lambda: False)
    assert files.load().manifest.counters["train_steps"] == 7


class Diverging(Recorder):
    """Its gradient is infinite at the eighth step, and its loss from then on not a number."""

    def train_step(self, phase: str, carry: int, batch: TensorBatch) -> tuple[int, TrainOutput]:
        bad = {7: ("grad_norm", "inf")}.get(carry, ("loss", "nan" if carry > 7 else "1"))
        return carry + 1, TrainOutput({bad[0]: torch.tensor(float(bad[1]))})


@pytest.mark.parametrize("every", ["publish_every_steps", "log_every_steps"])
def test_a_diverged_model_is_neither_published_nor_saved(every: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"publish_every_steps": 100, "log_every_steps": 100, every: 4}
    files, sink = checkpointer(tmp_path), FakeWeights()
    config = LearnerConfig(**settings)
    learner = make(Diverging(), config=config, checkpointer=files, sink=sink)
    learner.start()
    learner.run(lambda: learner.train_steps == 6)
    learner.finish()
    with pytest.raises(DivergedError, match="train/grad_norm is inf at train step 8"):
        learner.run(lambda: False)
    with pytest.raises(DivergedError):
        learner.finish()
    assert files.load().manifest.counters["train_steps"] == 6
    assert sink.published[-1].train_steps == 6


def test_a_checkpoint_between_two_readings_is_not_spoiled_either(tmp_path: Path) -> None:
    clock, files = Clock(), checkpointer(tmp_path)
    config = LearnerConfig(publish_every_steps=100, log_every_steps=100)
    learner = make(Diverging(), config=config, clock=clock, checkpointer=files)
    for _ in range(9):
        learner.step()
    clock.now = 1000.0
    with pytest.raises(DivergedError, match="train/loss is nan at train step 9"):
        learner.step()
    assert not files.exists()


def test_the_same_loop_runs_on_prefetched_batches() -> None:
    replay = filled_replay()
    stream = PrefetchingBatchStream(replay, CPU, 2)
    learner = make(counting_trainable(), replay, streams={"counting": stream})
    learner.start()
    learner.run(lambda: learner.train_steps >= 20)
    learner.finish()
    assert len(replay.updates) == 20  # the last ones too
    check_counting_columns(replay.runs(StreamId(0, 0, 0))[0])
    assert not [thread for thread in threading.enumerate() if thread.name == "batch stream"]


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


def pipeline(trainable: Any, latent_version: int = 100, **changes: Any) -> Learner:
    stream = BatchStream(filled_replay(), CPU)
    streams = {"first": stream, "encode": Constant(0, 3), "second": Constant(latent_version)}
    return make(trainable, phases=PIPELINE, streams=streams, repeat=False, **changes)


def steps_by_phase(calls: list[Any]) -> list[tuple[str, int]]:
    """Each phase in turn, with its batches."""
    names = [name for name, number in calls if isinstance(number, int) and name != "load"]
    return [(name, len(list(group))) for name, group in itertools.groupby(names)]


def test_a_pipeline_runs_each_phase_once_and_is_finished() -> None:
    trainable, sink = Recorder(), FakeWeights()
    learner = pipeline(trainable, sink=sink)
    learner.run(lambda: False)
    assert learner.finished
    assert not learner.step()
    calls = [call for call in trainable.calls if len(call) == 2]
    assert steps_by_phase(calls) == [("first", 2), ("encode", 3), ("second", 3)]
    assert learner.train_steps == 5  # a sweep trains nothing
    # At the end of a phase, before the sweep, and every three steps.
    assert [w.train_steps for w in sink.published] == [2, 2, 3, 5]


@pytest.mark.parametrize(("batches", "before_end"), [(1, "first"), (3, "encode"), (7, "second")])
def test_a_resumed_pipeline_sweeps_again_and_goes_on(batches: int, before_end: str) -> None:
    learner = pipeline(Recorder())
    for _ in range(batches):
        learner.step()
    assert learner.phase == before_end
    state = learner.state_dict()
    done = {"first": batches, "encode": 2, "second": 3}[before_end]

    trainable = Recorder()
    resumed = pipeline(trainable)
    resumed.load_state_dict(state)
    resumed.run(lambda: False)
    calls = [call for call in trainable.calls if len(call) == 2]
    ended = [("encode", 3), ("second", 3)]
    expected = {
        "first": [("first", 1), *ended],
        "encode": ended,
        "second": [("encode", 3), ("second", 2)],
    }
    assert steps_by_phase(calls) == expected[before_end]
    assert resumed.train_steps == 5
    assert learner.train_steps == done


def test_a_finished_pipeline_stays_finished() -> None:
    learner = pipeline(Recorder())
    learner.run(lambda: False)
    resumed = pipeline(Recorder())
    resumed.load_state_dict(learner.state_dict())
    assert resumed.finished
    assert not resumed.step()


def test_a_step_that_the_sweep_has_left_out_is_refused() -> None:
    learner = pipeline(Recorder(), latent_version=1)
    with pytest.raises(ReplayError, match="'second' got a step whose latents are of version 1"):
        learner.run(lambda: False)
