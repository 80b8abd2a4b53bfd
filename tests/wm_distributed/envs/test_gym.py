"""CarRacing by both engines, registered environments, and those of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.api import VectorEnv
from wm_distributed.config import EnvConfig
from wm_distributed.envs import env_spaces, make_vector_env
from wm_distributed.errors import ConfigError, UnknownNameError

CAR = EnvConfig(id="car_racing")
ENGINES: list[Any] = ["envpool", "gymnasium"]
FULL_GAS = np.array([[0, 1, -1]], np.float32)
NOTHING = np.array([[0, -1, -1]], np.float32)


def test_both_engines_have_the_same_spaces() -> None:
    ours, theirs = (env_spaces(replace(CAR, engine=engine)) for engine in ENGINES)
    assert ours == theirs
    assert ours.obs == {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
    assert ours.action == spaces.Box(-1.0, 1.0, (3,), np.float32)


def drive(env: VectorEnv, num_steps: int, action: Any) -> tuple[list[float], Any]:
    """Rewards of the first environment up to its end, and the last step."""
    step = env.reset()
    rewards = []
    for _ in range(num_steps):
        step = env.step(action)
        rewards.append(float(step.reward[0]))
        if step.is_last[0]:
            break
    return rewards, step


def test_both_engines_reward_and_end_alike() -> None:
    """Straight on with full gas: tiles at the same steps, then off the field for −100."""
    tiles, lengths = [], []
    for engine in ENGINES:
        env = make_vector_env(replace(CAR, engine=engine), 1, 6)
        rewards, last = drive(env, 300, FULL_GAS)
        env.close()
        assert last.is_terminal[0]
        assert rewards[-1] == -100
        # A step costs 0.1, a new tile gives 1000 / (number of tiles).
        gains = sorted({round(reward + 0.1, 3) for reward in rewards[:-1]} - {0.0})
        assert 220 < 1000 / gains[0] < 400
        assert all(round(gain / gains[0], 2).is_integer() for gain in gains)
        tiles.append([t for t, reward in enumerate(rewards[:60]) if reward > 0])
        lengths.append(len(rewards))
    assert len(tiles[0]) == len(tiles[1]) > 10
    np.testing.assert_allclose(tiles[0], tiles[1], atol=1)
    assert lengths[0] == pytest.approx(lengths[1], abs=3)


def test_minus_one_is_neither_gas_nor_brake() -> None:
    env = make_vector_env(replace(CAR, engine="envpool"), 1, 0)
    rewards, _ = drive(env, 80, NOTHING)
    env.close()
    assert rewards[5:] == pytest.approx([-0.1] * 75, abs=1e-5)  # it does not move


@pytest.mark.parametrize("engine", ENGINES)
def test_a_limit_cuts_without_a_terminal(engine: Any) -> None:
    env = make_vector_env(replace(CAR, engine=engine, max_episode_steps=2, action_repeat=2), 1, 0)
    rewards, last = drive(env, 3, NOTHING)
    after = env.step(NOTHING)
    env.close()
    assert len(rewards) == 2
    assert rewards[1] == pytest.approx(-0.2, abs=1e-5)
    assert last.is_last[0]
    assert not last.is_terminal[0]
    assert after.is_first[0]


def test_an_environment_of_ones_own_is_found_by_its_path() -> None:
    config = EnvConfig(id="gymnasium.envs.classic_control:PendulumEnv", options={"g": 1.0})
    env = make_vector_env(config, 2, 0)
    assert env.reset().obs["vector"].shape == (2, 3)
    env.close()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Env", "cannot be imported: No module named 'no_such_module'"),
        ("gymnasium:NoSuchEnv", "cannot be imported: module 'gymnasium' has no attribute"),
        ("this_module_exits:Env", "cannot be imported: it calls sys.exit"),
        ("this_module_fails:Env", r"imported:\nTraceback .*\n.*this_module_fails.py\", line 2"),
        ("this_module_lacks:Env", r"imported:\nTraceback .*\n.*this_module_lacks.py\", line 2"),
        ("pathlib:Path", "expected a gymnasium.Env, got PosixPath"),
    ],
)
def test_a_path_that_leads_to_no_environment_is_refused(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this_module_exits.py").write_text("raise SystemExit(0)")
    (tmp_path / "this_module_lacks.py").write_text("import os\nos.no_such_thing")
    (tmp_path / "this_module_fails.py").write_text("import os\n1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make_vector_env(EnvConfig(id=path), 1, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EnvConfig(id="gym/CartPole-v7"), "did you mean gym/CartPole-v"),
        (EnvConfig(id="gym/CartPoll-v1"), "did you mean gym/CartPole-v1"),
        (EnvConfig(id="gym/CartPoll-v1", engine="envpool"), "did you mean gym/CartPole-v1"),
        (EnvConfig(id="car_racing/fast"), "did you mean car_racing"),
    ],
)
def test_an_unknown_name_is_refused_with_near_matches(config: EnvConfig, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        make_vector_env(config, 1, 0)
