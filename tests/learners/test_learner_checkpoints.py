from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.batch_stream import BatchStream, Sampled
from learners.learner import Learner
from wm_distributed.api import TrainOutput
from wm_distributed.checkpoint import Checkpointer
from wm_distributed.config import LearnerConfig
from wm_distributed.errors import DeadlineError, DivergedError, RunDirError
from wm_distributed.testing import FakeReplay, FakeWeights
from wm_distributed.testing.counting_models import CountingTrainable
from wm_distributed.types import TensorBatch

CPU = torch.device("cpu")
Make = Callable[..., Learner]
Fill = Callable[..., FakeReplay]
Build = Callable[..., CountingTrainable]
Open = Callable[[Path], Checkpointer]


def test_checkpoints_are_saved_when_due_when_asked_and_at_the_end(
    tmp_path: Path, make_learner: Make, clock: Any, make_checkpointer: Open
) -> None:
    files = make_checkpointer(tmp_path)
    config = LearnerConfig(checkpoint_every_seconds=60.0)
    learner = make_learner(config=config, clock=clock, checkpointer=files)
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


def test_a_run_is_saved_before_its_first_step_and_a_resumed_one_is_not_saved_again(
    tmp_path: Path, make_learner: Make, make_checkpointer: Open
) -> None:
    files = make_checkpointer(tmp_path)
    learner = make_learner(checkpointer=files)
    learner.start()
    assert files.load().manifest.counters == {"train_steps": 0, "version": 1}
    learner.step()
    learner.finish()
    resumed = make_learner(checkpointer=files)
    resumed.load_state_dict(files.load().state)
    saved = sorted(tmp_path.iterdir())
    resumed.start()
    assert sorted(tmp_path.iterdir()) == saved


def test_the_best_evaluation_decides_which_weights_are_the_final_ones(
    tmp_path: Path, make_learner: Make, counting_trainable: Build, make_checkpointer: Open
) -> None:
    trainable = counting_trainable()
    learner = make_learner(trainable, checkpointer=make_checkpointer(tmp_path))
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
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    make_learner: Make,
    counting_trainable: Build,
    make_checkpointer: Open,
) -> None:
    learner = make_learner(counting_trainable(), checkpointer=make_checkpointer(tmp_path))
    assert learner.snapshot().train_steps == 0
    learner.keep_if_best(0, 1.0)
    learner.step()
    (tmp_path / "best.json").write_text("{")
    assert learner.final_weights("best").train_steps == 1
    assert "the newest weights stand in" in caplog.text


def test_what_fails_between_two_steps_ends_the_training_and_is_told(
    tmp_path: Path, make_learner: Make, make_checkpointer: Open
) -> None:
    directory = tmp_path / "checkpoints"
    learner = make_learner(checkpointer=make_checkpointer(directory))
    directory.rmdir()
    asked = learner.request(learner.snapshot)
    with pytest.raises(RunDirError, match="cannot write a checkpoint"):
        learner.step()
    assert isinstance(asked.exception(0), RunDirError)


def test_a_resumed_run_trains_exactly_as_one_that_was_never_stopped(
    tmp_path: Path,
    make_learner: Make,
    filled_replay: Fill,
    counting_trainable: Build,
    make_checkpointer: Open,
) -> None:
    def batches(replay: FakeReplay, count: int) -> None:
        for _ in range(count):
            replay.sample()

    whole = counting_trainable()
    learner = make_learner(whole)
    learner.start()
    for _ in range(20):
        learner.step()

    first = make_learner(counting_trainable(), checkpointer=make_checkpointer(tmp_path))
    first.start()
    for _ in range(12):
        first.step()
    first.finish()
    drawn = torch.randn(3)

    replay = filled_replay()
    batches(replay, 12)
    resumed = counting_trainable(seed=99)
    second = make_learner(resumed, replay)
    second.load_state_dict(make_checkpointer(tmp_path).load().state)
    assert torch.equal(torch.randn(3), drawn)  # the random state is back
    second.start()
    for _ in range(8):
        second.step()
    assert second.train_steps == 20
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert not torch.equal(resumed.model.weight, counting_trainable().model.weight)


def test_what_was_trained_is_saved_when_no_further_batch_comes(
    tmp_path: Path,
    make_learner: Make,
    filled_replay: Fill,
    counting_trainable: Build,
    make_checkpointer: Open,
) -> None:
    files, stream = make_checkpointer(tmp_path), BatchStream(filled_replay(), CPU)
    sample = stream.next

    def next_batch(timeout_seconds: float) -> Sampled | None:
        if learner.train_steps == 7:
            raise DeadlineError("no shard holds a sequence")
        return sample(timeout_seconds)

    stream.next = next_batch  # type: ignore[method-assign]
    learner = make_learner(counting_trainable(), checkpointer=files, streams={"counting": stream})
    with pytest.raises(DeadlineError, match="no shard holds"):
        learner.run(lambda: False)
    assert files.load().manifest.counters["train_steps"] == 7


@pytest.fixture
def diverging(recorder: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its gradient is infinite at the eighth step, and its loss from then on not a number."""

    def train_step(phase: str, carry: int, batch: TensorBatch) -> tuple[int, TrainOutput]:
        bad = {7: ("grad_norm", "inf")}.get(carry, ("loss", "nan" if carry > 7 else "1"))
        return carry + 1, TrainOutput({bad[0]: torch.tensor(float(bad[1]))})

    monkeypatch.setattr(recorder, "train_step", train_step)
    return recorder


@pytest.mark.parametrize("every", ["publish_every_steps", "log_every_steps"])
def test_a_diverged_model_is_neither_published_nor_saved(
    every: str, tmp_path: Path, make_learner: Make, make_checkpointer: Open, diverging: Any
) -> None:
    settings: dict[str, Any] = {"publish_every_steps": 100, "log_every_steps": 100, every: 4}
    files, sink = make_checkpointer(tmp_path), FakeWeights()
    config = LearnerConfig(**settings)
    learner = make_learner(diverging, config=config, checkpointer=files, sink=sink)
    learner.start()
    learner.run(lambda: learner.train_steps == 6)
    learner.finish()
    with pytest.raises(DivergedError, match="train/grad_norm is inf at train step 8"):
        learner.run(lambda: False)
    with pytest.raises(DivergedError):
        learner.finish()
    assert files.load().manifest.counters["train_steps"] == 6
    assert sink.published[-1].train_steps == 6


def test_a_checkpoint_between_two_readings_is_not_spoiled_either(
    tmp_path: Path, make_learner: Make, clock: Any, make_checkpointer: Open, diverging: Any
) -> None:
    files = make_checkpointer(tmp_path)
    config = LearnerConfig(publish_every_steps=100, log_every_steps=100)
    learner = make_learner(diverging, config=config, clock=clock, checkpointer=files)
    for _ in range(9):
        learner.step()
    clock.now = 1000.0
    with pytest.raises(DivergedError, match="train/loss is nan at train step 9"):
        learner.step()
    assert not files.exists()
