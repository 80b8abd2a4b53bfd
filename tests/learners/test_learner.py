import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from learners.batch_stream import PrefetchingBatchStream
from learners.learner import Learner
from learners.parameter_server import ParameterServer
from wm_distributed.age_limits import AgeLimits
from wm_distributed.collective import Collective
from wm_distributed.config import LearnerConfig, ReplayConfig
from wm_distributed.errors import DeadlineError
from wm_distributed.metrics import FREE_PREFIXES, METRICS
from wm_distributed.testing import FakeReplay, FakeWeights, check_counting_columns
from wm_distributed.testing.counting_models import CountingTrainable
from wm_distributed.types import StreamId

CPU = torch.device("cpu")
Make = Callable[..., Learner]
Fill = Callable[..., FakeReplay]
Build = Callable[..., CountingTrainable]


def test_weights_are_published_at_the_start_then_every_so_many_steps_and_at_the_end(
    make_learner: Make,
) -> None:
    sink = FakeWeights()
    learner = make_learner(sink=sink)
    learner.start()
    for _ in range(7):
        assert learner.step()
    learner.finish()
    assert [(w.version, w.train_steps) for w in sink.published] == [(1, 0), (2, 3), (3, 6), (4, 7)]
    assert learner.stats()["learner/publish_bytes"] == 10


def test_ranks_meet_after_each_publication_so_that_none_waits_for_what_it_brings(
    make_learner: Make,
) -> None:
    class Meeting(Collective):
        def meet(self) -> None:
            met.append(len(sink.published))

    met: list[int] = []
    sink = FakeWeights()
    learner = make_learner(sink=sink, collective=Meeting())
    learner.start()
    for _ in range(3):
        learner.step()
    learner.finish()
    assert met == [1, 2, 2]


def test_weights_already_published_are_not_published_again_at_the_end(make_learner: Make) -> None:
    sink = FakeWeights()
    learner = make_learner(sink=sink)
    learner.start()
    for _ in range(3):
        learner.step()
    learner.finish()
    assert [w.version for w in sink.published] == [1, 2]


def test_a_resumed_learner_publishes_a_version_that_is_newer_than_what_actors_have(
    make_learner: Make,
) -> None:
    server = ParameterServer()
    first = make_learner(sink=server)
    first.start()
    saved = first.state_dict()
    for _ in range(9):
        first.step()
    assert server.version == 4
    second = make_learner(sink=server)
    second.load_state_dict(saved)
    second.start(newest_version=server.version)
    assert server.version == 5


def test_a_step_without_a_batch_says_so_and_counts_nothing(make_learner: Make) -> None:
    learner = make_learner(replay=FakeReplay(batch_size=4, length=6, context=1))
    learner.start()
    assert not learner.step()
    assert learner.train_steps == 0


def test_latents_are_written_back_to_the_steps_that_they_belong_to(
    make_learner: Make, filled_replay: Fill, counting_trainable: Build
) -> None:
    replay = filled_replay()
    learner = make_learner(counting_trainable(), replay)
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


def test_stats_are_named_as_in_the_table_and_hold_means_of_the_window(make_learner: Make) -> None:
    learner = make_learner()
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


def test_refreshed_latents_are_younger_than_the_policy_that_acted(
    make_learner: Make, filled_replay: Fill, counting_trainable: Build
) -> None:
    replay = filled_replay(env_steps=40)
    learner = make_learner(counting_trainable(), replay)
    learner.start()
    for _ in range(60):
        learner.step()
    stats = learner.stats()
    assert stats["learner/policy_lag_mean"] == 20  # the version before the last publication
    assert stats["learner/latent_age_mean"] < 5
    ages = [stats[f"learner/latent_age_{name}"] for name in ("mean", "p95", "max")]
    assert ages == sorted(ages)
    assert ages[0] < ages[2] <= 20


def test_a_learner_tells_its_limits_what_is_newest_and_counts_what_is_stale(
    make_learner: Make,
) -> None:
    ages = AgeLimits(ReplayConfig(max_policy_lag=1))
    learner = make_learner(ages=ages)
    learner.start()
    assert ages.newest_version == 1
    ages.stale_sequences = 7
    assert learner.stats()["learner/stale_sequences"] == 7
    learner.finish()
    assert ages.newest_version == learner.stats()["learner/version"]


def test_reports_come_when_due_and_are_taken_once(
    make_learner: Make, recorder: Any, clock: Any
) -> None:
    config = LearnerConfig(report_every_seconds=10.0)
    learner = make_learner(recorder, config=config, clock=clock)
    learner.step()
    assert learner.take_report() is None
    clock.now = 10.0
    learner.step()
    # Made before the step, on a batch that the step had not trained on.
    assert recorder.calls[-2:] == ["report", ("counting", 1)]
    learner.step()
    assert recorder.calls.count("report") == 1
    report = learner.take_report()
    assert report is not None
    assert learner.take_report() is None
    learner.finish()
    assert recorder.calls.count("report") == 2
    assert learner.take_report() is not None


def test_run_trains_until_told_to_stop(make_learner: Make) -> None:
    learner = make_learner()
    learner.start()
    learner.run(lambda: learner.train_steps >= 13)
    assert learner.train_steps == 13


def test_a_deadline_of_prefetched_batches_ends_the_run(make_learner: Make) -> None:
    empty = FakeReplay(batch_size=4, length=6, context=1)
    stream = PrefetchingBatchStream(empty, CPU, 1)
    learner = make_learner(streams={"counting": stream})
    with pytest.raises(DeadlineError, match="no unbroken run of 7 steps"):
        learner.run(lambda: False)


def test_the_same_loop_runs_on_prefetched_batches(
    make_learner: Make, filled_replay: Fill, counting_trainable: Build
) -> None:
    replay = filled_replay()
    stream = PrefetchingBatchStream(replay, CPU, 2)
    learner = make_learner(counting_trainable(), replay, streams={"counting": stream})
    learner.start()
    learner.run(lambda: learner.train_steps >= 20)
    learner.finish()
    assert len(replay.updates) == 20  # the last ones too
    check_counting_columns(replay.runs(StreamId(0, 0, 0))[0])
    assert not [thread for thread in threading.enumerate() if thread.name == "batch stream"]
