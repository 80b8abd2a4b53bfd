from dataclasses import replace

import pytest

from wm_distributed.api import DataSpec
from wm_distributed.launch.capacity.figures import Cluster, Figures, Outcome, Workload
from wm_distributed.launch.capacity.forecast import bottleneck, enough_actors
from wm_distributed.launch.capacity.simulation import simulate

FIGURES = Figures(
    preset="made up",
    actor_seconds=0.01,
    shard_seconds=0.0,
    train_cpu_seconds=0.5,
    train_seconds=0.5,
    other_cores=0.0,
    step_bytes=1000.0,
    sampled_step_bytes=1000.0,
    stored_step_bytes=1200.0,
    weights_bytes=0.0,
)
BATCH = DataSpec(batch_size=10, length=10)
WORKLOAD = Workload(
    num_actors=1,
    chunk_env_steps=10,
    num_shards=1,
    phases=((BATCH, 1),),
    ratio=None,
    prefetch=2,
    publish_every_steps=1,
)
ROOMY = Cluster(machines=1, cores=64, gbit=1000)


def run(figures: Figures = FIGURES, cluster: Cluster = ROOMY, **changes: object) -> Outcome:
    return simulate(figures, replace(WORKLOAD, **changes), cluster)  # type: ignore[arg-type]


def test_without_anything_in_their_way_actors_and_learner_go_at_their_own_pace() -> None:
    outcome = run(num_actors=3)
    assert outcome.env_steps_per_second == pytest.approx(300, rel=0.02)
    assert outcome.train_steps_per_second == pytest.approx(2, rel=0.02)
    assert (outcome.actors_held, outcome.learner_busy) == pytest.approx((0, 1), abs=0.02)
    assert bottleneck(outcome, ROOMY) == "actors"


def test_the_ratio_holds_the_actors_when_the_learner_is_slow() -> None:
    # 2 train steps a second of 100 steps each, 5 trained steps an environment step: 40 a second.
    outcome = run(num_actors=3, ratio=5.0)
    assert outcome.env_steps_per_second == pytest.approx(40, rel=0.03)
    assert outcome.train_steps_per_second == pytest.approx(2, rel=0.02)
    assert outcome.actors_held == pytest.approx(1 - 40 / 300, abs=0.02)
    assert bottleneck(outcome, ROOMY) == "learner"


def test_actors_that_are_held_for_ever_count_as_held() -> None:
    outcome = run(num_actors=32, ratio=5.0)
    assert outcome.actors_held == pytest.approx(1 - 40 / 3200, abs=0.01)


def test_the_ratio_holds_the_learner_when_the_actors_are_slow() -> None:
    # 100 environment steps a second, half a trained step each: half a train step a second.
    outcome = run(ratio=0.5)
    assert outcome.env_steps_per_second == pytest.approx(100, rel=0.02)
    assert outcome.train_steps_per_second == pytest.approx(0.5, rel=0.03)
    assert outcome.learner_busy == pytest.approx(0.25, abs=0.02)
    assert bottleneck(outcome, ROOMY) == "actors"


def test_two_cores_are_shared_by_all_who_compute() -> None:
    # Three actors and a learner on two cores: half a core each.
    small = Cluster(machines=1, cores=2, gbit=10)
    outcome = run(cluster=small, num_actors=3)
    assert outcome.env_steps_per_second == pytest.approx(150, rel=0.03)
    assert outcome.train_steps_per_second == pytest.approx(1, rel=0.03)
    assert outcome.cores_busy[0] == pytest.approx(1, abs=0.01)
    assert bottleneck(outcome, small) == "cores"


def test_a_learner_on_a_gpu_takes_no_cores() -> None:
    small = Cluster(machines=1, cores=1, gbit=10, gpus=2)
    outcome = run(cluster=small)
    assert outcome.env_steps_per_second == pytest.approx(100, rel=0.02)
    assert outcome.train_steps_per_second == pytest.approx(4, rel=0.02)


def test_a_learner_is_held_by_the_link_that_brings_its_batches() -> None:
    # Half of each batch of 100 kB comes from the other machine, at 25 kB a second.
    thin = Cluster(machines=2, cores=64, gbit=25e3 * 8 / 1e9)
    outcome = run(cluster=thin, num_shards=2, ratio=1000.0)
    assert outcome.train_steps_per_second == pytest.approx(0.5, rel=0.05)
    assert outcome.link_busy[0] > 0.95
    assert bottleneck(outcome, thin) == "link"


def test_actors_are_held_by_the_link_that_takes_their_chunks() -> None:
    # The second actor's steps of 1 kB go to the first machine at 25 kB a second.
    thin = Cluster(machines=2, cores=64, gbit=25e3 * 8 / 1e9)
    outcome = run(cluster=thin, num_actors=2)
    assert outcome.env_steps_per_second == pytest.approx(100 + 25, rel=0.03)
    assert outcome.actors_held < 0.02
    assert bottleneck(outcome, thin) == "link"


def test_phases_take_turns_and_one_of_them_sets_the_pace() -> None:
    paced, free = BATCH, replace(BATCH, counts_for_ratio=False)
    outcome = run(num_actors=3, ratio=5.0, phases=((paced, 1), (free, 3)))
    assert outcome.env_steps_per_second == pytest.approx(10, rel=0.05)
    assert outcome.train_steps_per_second == pytest.approx(2, rel=0.02)


def test_more_actors_help_until_the_learner_holds_them() -> None:
    outcomes = [run(num_actors=count, ratio=1.0) for count in (1, 2, 4, 8)]
    rates = [outcome.env_steps_per_second for outcome in outcomes]
    assert rates == pytest.approx([100, 200, 200, 200], rel=0.03)
    assert enough_actors(outcomes) == 2
    assert enough_actors(outcomes[:2]) is None


def test_a_simulation_is_the_same_every_time() -> None:
    assert run(num_actors=5, ratio=3.0) == run(num_actors=5, ratio=3.0)
