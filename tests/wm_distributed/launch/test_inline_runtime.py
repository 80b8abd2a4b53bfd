"""Whole runs in one process."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from replay_service.messages import Picks, SampleRequest
from wm_distributed.api import SelectorSpec, VectorEnv
from wm_distributed.config import RunConfig
from wm_distributed.errors import CheckpointError, ConfigError, EnvError, ReplayError
from wm_distributed.families import load_family
from wm_distributed.launch.inline_runtime import InlineRuntime
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import RunStatus
from wm_distributed.testing import CountingEnv
from wm_distributed.testing.counting_family import CountingConfig, counting_preset


class FailingEnv(CountingEnv):
    """Raises at its 30th step."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._left = 30

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        if not self._left:
            raise RuntimeError("the pole fell off")
        return super().step(action)


class UndrawnEnv(CountingEnv):
    """Cannot be drawn on this machine."""

    def render(self) -> Any:
        raise RuntimeError("no display")


class EndlessEnv(CountingEnv):
    """Has no end, and no time limit of its own."""

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


def with_(config: RunConfig[Any], **sections: dict[str, Any]) -> RunConfig[Any]:
    """The configuration with some fields of some sections replaced."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **changed)


def open_runtime(config: RunConfig[Any], run_dir: Path, *, resume: bool = False) -> InlineRuntime:
    run_dir.mkdir(exist_ok=True)
    runtime = InlineRuntime(preflight(config, run_dir), resume=resume)
    runtime.start()
    return runtime


def run(runtime: InlineRuntime) -> list[RunStatus]:
    statuses = [runtime.poll()]
    while not statuses[-1].finished:
        statuses.append(runtime.poll())
    return statuses


def lasting(status: RunStatus) -> dict[str, float]:
    """The metrics that do not measure time or memory."""
    timed = ("second", "_share", "cpu", "rss", "loss_window")
    return {k: v for k, v in status.metrics.items() if not any(word in k for word in timed)}


@pytest.mark.parametrize("preset", ["counting", "dreamer-debug"])
def test_equal_runs_give_equal_metrics_weights_and_evaluations(preset: str, tmp_path: Path) -> None:
    if preset == "counting":
        config: RunConfig[Any] = with_(counting_preset(), stop={"env_steps": 600})
    else:
        config = with_(
            load_family("dreamer").presets[preset](),
            stop={"env_steps": None, "train_steps": 15},
            eval={"every_env_steps": 100, "episodes": 2, "envs": 2},
            learner={"num_threads": 1, "log_every_steps": 5, "report_every_seconds": 0.0},
        )
    outcomes = []
    for name in ("a", "b"):
        torch.rand(len(outcomes) + 1)  # what happened before must not matter
        runtime = open_runtime(config, tmp_path / name)
        statuses = run(runtime)
        final = runtime.evaluate_final(2)
        runtime.stop(checkpoint=True)
        (state,) = (tmp_path / name / "checkpoints").glob(f"*{statuses[-1].train_steps:09d}*.pt")
        evaluations = [e.results for status in statuses for e in status.evaluations]
        assert evaluations
        outcomes.append((lasting(statuses[-1]), evaluations, final.agent.results, state))
    assert outcomes[0][0] == outcomes[1][0]
    assert outcomes[0][1:3] == outcomes[1][1:3]
    weights = [torch.load(outcome[3], weights_only=True)["trainable"] for outcome in outcomes]
    assert flat(weights[0]) == flat(weights[1])


def test_a_run_can_be_stopped_while_an_evaluation_does_not_end(tmp_path: Path) -> None:
    config = with_(
        counting_preset(), env={"id": f"{__name__}:EndlessEnv"}, eval={"every_env_steps": 100}
    )
    runtime = open_runtime(dataclasses.replace(config, model=CountingConfig()), tmp_path)
    while not runtime._evaluator.playing:
        assert not runtime.poll().finished
    runtime.stop(checkpoint=True)
    assert not runtime._evaluator.playing
    assert RunDir(tmp_path).checkpoints.exists()


def test_replay_too_small_in_bytes_for_all_environments_is_refused(tmp_path: Path) -> None:
    replay = {"num_shards": 1, "capacity_bytes": 1_000}  # room for a sequence, but not of each
    runtime = open_runtime(with_(counting_preset(), replay=replay), tmp_path)
    with pytest.raises(ReplayError, match=r"sequences of 7 from 4 streams .*capacity_bytes"):
        run(runtime)
    runtime.stop(checkpoint=False)


def test_dreamer_s_train_steps_change_the_priorities_in_replay(tmp_path: Path) -> None:
    config = with_(
        load_family("dreamer").presets["dreamer-debug"](),
        model={"selector": SelectorSpec(uniform=0.5, prioritized=0.5)},
        replay={"num_shards": 1},
        stop={"env_steps": None, "train_steps": 3},
        learner={"num_threads": 1},
    )
    runtime = open_runtime(config, tmp_path)
    run(runtime)
    reply = runtime._shards[0].sample(SampleRequest("sequences", Picks()))
    runtime.stop(checkpoint=False)
    holding = reply.holdings["sequences"]
    untrained = config.model.selector.initial_priority**config.model.selector.exponent
    assert holding.starts > 0
    assert holding.priority_mass != pytest.approx(holding.starts * untrained, rel=1e-6)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    """The negative control of the test above."""
    states = []
    for seed in (0, 1):
        config = dataclasses.replace(with_(counting_preset(), stop={"env_steps": 200}), seed=seed)
        runtime = open_runtime(config, tmp_path / str(seed))
        run(runtime)
        runtime.stop(checkpoint=True)
        path = max((tmp_path / str(seed) / "checkpoints").glob("*.pt"))
        states.append(flat(torch.load(path, weights_only=True)["trainable"]))
    assert states[0] != states[1]


def flat(state: Any) -> list[Any]:
    """All values of a state, tensors as bytes."""
    if isinstance(state, dict):
        return [(key, flat(state[key])) for key in sorted(state, key=str)]
    if isinstance(state, (list, tuple)):
        return [flat(value) for value in state]
    return [state.numpy().tobytes() if isinstance(state, torch.Tensor) else state]


def test_a_run_ends_at_its_limit_with_the_ratio_that_it_aimed_at(tmp_path: Path) -> None:
    config = with_(counting_preset(), stop={"env_steps": 2000})
    runtime = open_runtime(config, tmp_path)
    last = run(runtime)[-1]
    runtime.stop(checkpoint=False)
    assert "2,000" in last.reason
    # Chunks of 2 environments x 8 steps: the limit is found after the chunk that reaches it.
    assert 2000 <= last.env_steps <= 2000 + 16
    assert last.metrics["limiter/ratio"] == pytest.approx(4.0, rel=0.02)
    assert last.metrics["actor/env_steps"] == last.env_steps
    assert last.metrics["replay/inserted_steps"] == last.env_steps
    roles = [process.role for process in last.processes]
    assert sorted(set(roles)) == ["actor", "evaluator", "learner", "limiter", "server", "shard"]


@pytest.mark.parametrize(
    ("replay", "held", "missing"),
    [
        ({}, 600, 0),
        ({"num_shards": 1}, 600, 0),
        ({"num_shards": 3}, 600, 0),
        ({"capacity_steps": 400}, 400, 0),
        ({"durable": False}, 0, 64),  # the minimum is awaited again, and not trained on
    ],
)
def test_a_resumed_run_has_its_replay_and_does_not_catch_up(
    replay: dict[str, Any], held: int, missing: int, tmp_path: Path
) -> None:
    runtime = open_runtime(with_(counting_preset(), stop={"env_steps": 600}), tmp_path)
    before = run(runtime)[-1]
    runtime.stop(checkpoint=True)

    config = with_(counting_preset(), stop={"env_steps": 1200}, replay=replay)
    runtime = open_runtime(config, tmp_path, resume=True)
    standing = sum(shard.standing().held_steps for shard in runtime._shards)
    assert 0.9 * held <= standing <= held + 8
    after = run(runtime)[-1]  # every sequence is checked by the trainable
    runtime.stop(checkpoint=False)
    assert after.env_steps >= 1200
    assert after.metrics["replay/duplicate_chunks"] == 0
    assert after.metrics["learner/version"] > before.metrics["learner/version"]
    # Trained steps of the 600 new environment steps, and of no others.
    trained = (after.train_steps - before.train_steps) * 4 * 6
    assert trained == pytest.approx(4.0 * (600 - missing), abs=100)


def test_a_run_that_begins_anew_forgets_what_lies_there(tmp_path: Path) -> None:
    for _ in range(2):
        runtime = open_runtime(with_(counting_preset(), stop={"env_steps": 100}), tmp_path)
        assert runtime._shards[0].standing().held_steps == 0
        run(runtime)
        runtime.stop(checkpoint=False)


def test_a_resumed_run_acts_in_other_episodes_than_at_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    open_env = Plan.open_env

    def recording(self: Plan, num_envs: int, seed: int, *, render: bool = False) -> VectorEnv:
        seeds.append(seed)
        return open_env(self, num_envs, seed, render=render)

    monkeypatch.setattr(Plan, "open_env", recording)
    for env_steps in (100, 200):
        config = with_(counting_preset(), stop={"env_steps": env_steps})
        runtime = open_runtime(config, tmp_path, resume=env_steps > 100)
        run(runtime)
        runtime.stop(checkpoint=True)
    assert len(seeds) == 4  # of two actors, twice
    assert len(set(seeds)) == 4


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing has been saved"):
        open_runtime(counting_preset(), tmp_path, resume=True)


def test_a_checkpoint_of_another_environment_names_it_and_the_flag(tmp_path: Path) -> None:
    config = with_(counting_preset(), stop={"env_steps": 64}, model={"check_data": False})
    RunDir(tmp_path).save_config(config)
    runtime = open_runtime(config, tmp_path)
    run(runtime)
    runtime.stop(checkpoint=True)
    other = with_(config, env={"id": "toy/nav"})
    message = rf"in environment 'toy/nav' \(--env.id was '{config.env.id}'\), .*; use the settings"
    with pytest.raises(CheckpointError, match=message):
        open_runtime(other, tmp_path, resume=True)


def test_several_ranks_are_refused(tmp_path: Path) -> None:
    config = with_(counting_preset(), learner={"num_ranks": 2})
    with pytest.raises(ConfigError, match=r"learner\.num_ranks 2.*--runtime ray"):
        open_runtime(config, tmp_path)


def test_without_a_ratio_actors_and_learner_take_turns(tmp_path: Path) -> None:
    config = with_(
        counting_preset(), replay={"ratio": None}, stop={"env_steps": None, "train_steps": 50}
    )
    runtime = open_runtime(config, tmp_path)
    last = run(runtime)[-1]
    runtime.stop(checkpoint=False)
    # Two actors insert 16 steps each in a round; the first 64 steps only fill replay.
    assert last.train_steps == 50
    assert last.env_steps == pytest.approx(64 + 50 * 32, abs=64)


@pytest.mark.parametrize("ratio", [4.0, None])
@pytest.mark.parametrize("when_stale", ["discard", "pause"])
def test_nothing_beyond_the_limit_of_policy_lag_is_trained_on(
    when_stale: str, ratio: float | None, tmp_path: Path
) -> None:
    config = with_(
        counting_preset(),
        replay={"capacity_steps": 200, "ratio": ratio, "max_policy_lag": 2}
        | {"when_stale": when_stale},
        learner={"log_every_steps": 1, "publish_every_steps": 2},
        stop={"env_steps": 1500},
    )
    statuses = run(open_runtime(config, tmp_path))
    assert max(s.metrics["learner/policy_lag_max"] for s in statuses) <= 3  # published since
    assert statuses[-1].metrics["learner/stale_sequences"] > 0
    assert statuses[-1].train_steps > 10


def test_an_environment_that_keeps_failing_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    config = with_(
        counting_preset(),
        env={"id": f"{__name__}:FailingEnv", "max_restarts": 1},
        stop={"env_steps": 400},
    )
    runtime = open_runtime(config, tmp_path)
    with pytest.raises(EnvError, match="the pole fell off"):
        run(runtime)
    runtime.stop(checkpoint=False)


def test_an_environment_that_fails_to_draw_costs_the_video_alone(tmp_path: Path) -> None:
    config = with_(counting_preset(), env={"id": f"{__name__}:UndrawnEnv"}, stop={"env_steps": 100})
    runtime = open_runtime(config, tmp_path)
    run(runtime)
    agent = runtime.evaluate_final(4).agent
    runtime.stop(checkpoint=True)
    assert len(agent.results) == 4
    assert agent.frames is None
    assert "render() failed" in agent.no_video
    assert "no display" in agent.no_video


def test_what_is_trained_is_saved_before_the_final_evaluation_begins(tmp_path: Path) -> None:
    runtime = open_runtime(with_(counting_preset(), stop={"env_steps": 200}), tmp_path)
    last = run(runtime)[-1]
    manifest = max((tmp_path / "checkpoints").glob("step-*.json"))
    assert f"{last.train_steps:09d}" in manifest.name
    assert last.reports
    runtime.stop(checkpoint=False)
