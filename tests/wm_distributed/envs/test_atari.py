"""Atari by EnvPool and by ale-py: equal spaces, and equal games where nothing is random."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.config import EnvConfig
from wm_distributed.envs import env_spaces, make_vector_env
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.types import EnvStep

# One no-op frame exactly, so that both engines start alike.
PONG = EnvConfig(id="atari/pong", action_repeat=4, noop_max=1)
ENGINES: list[Any] = ["envpool", "gymnasium"]


def play(config: EnvConfig, num_steps: int) -> list[EnvStep]:
    env = make_vector_env(config, 2, 3)
    steps = [env.reset()]
    assert isinstance(env.spaces.action, spaces.Discrete)
    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        steps.append(env.step(rng.integers(env.spaces.action.n, size=2)))
    env.close()
    return steps


@pytest.mark.parametrize(
    "config",
    [
        replace(PONG, max_episode_steps=12),
        replace(PONG, id="atari/seaquest", image_size=80),
        # The ball is lost within 20 decisions unless the paddle happens to be there.
        replace(PONG, id="atari/breakout", life_loss_terminal=True, full_action_space=True),
    ],
    ids=["truncated", "other size", "lives"],
)
def test_both_engines_play_the_same_game(config: EnvConfig) -> None:
    ours, theirs = (play(replace(config, engine=engine), 60) for engine in ENGINES)
    for t, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for name in ("reward", "is_first", "is_last", "is_terminal"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), f"{name} at {t}")
        difference = np.abs(a.obs["image"].astype(int) - b.obs["image"])
        assert difference.max() <= 1, f"pictures differ by {difference.max()} at {t}"
    assert len({step.obs["image"].tobytes() for step in ours}) > 30
    if config.max_episode_steps or config.life_loss_terminal:
        assert sum(step.is_last.sum() for step in ours) >= 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_cut_is_no_terminal_and_a_lost_life_is_one(engine: Any) -> None:
    cut = play(replace(PONG, engine=engine, max_episode_steps=12), 30)
    ends = [t for t, step in enumerate(cut) if step.is_last.all()]
    assert ends == [12, 25]
    assert not any(step.is_terminal.any() for step in cut)
    lives = replace(PONG, id="atari/breakout", engine=engine, life_loss_terminal=True)
    lost = [step for step in play(lives, 60) if step.is_last.any()]
    assert lost
    for step in lost:
        np.testing.assert_array_equal(step.is_last, step.is_terminal)


@pytest.mark.parametrize("game", ["pong", "breakout"])
def test_both_engines_have_the_same_spaces(game: str) -> None:
    config = replace(PONG, id=f"atari/{game}")
    for full, num_actions in ((False, {"pong": 6, "breakout": 4}[game]), (True, 18)):
        wanted = replace(config, full_action_space=full)
        ours, theirs = (env_spaces(replace(wanted, engine=engine)) for engine in ENGINES)
        assert ours == theirs
        assert ours.action == spaces.Discrete(num_actions)
        assert ours.obs == {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}


@pytest.mark.parametrize("engine", ENGINES)
def test_sticky_actions_make_equal_actions_lead_apart(engine: Any) -> None:
    def apart(sticky: bool) -> bool:
        config = replace(PONG, engine=engine, sticky_actions=sticky)
        last = play_alike(config, 30)
        return not np.array_equal(last.obs["image"][0], last.obs["image"][1])

    assert apart(sticky=True)
    assert not apart(sticky=False)


def play_alike(config: EnvConfig, num_steps: int) -> EnvStep:
    env = make_vector_env(config, 2, 3)
    step = env.reset()
    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        step = env.step(np.full(2, rng.integers(6)))
    env.close()
    return step


@pytest.mark.parametrize("engine", ENGINES)
def test_noops_vary_the_start(engine: Any) -> None:
    def starts(noop_max: int) -> int:
        # In freeway the cars drive on while nothing is done.
        config = replace(PONG, id="atari/freeway", engine=engine, noop_max=noop_max)
        env = make_vector_env(config, 4, 0)
        images = env.reset().obs["image"]
        env.close()
        return len({image.tobytes() for image in images})

    assert starts(1) == 1
    assert starts(30) > 1


@pytest.mark.parametrize("engine", ENGINES)
def test_it_draws_the_whole_screen_if_asked(engine: Any) -> None:
    env = make_vector_env(replace(PONG, engine=engine), 1, 0, render=True)
    env.reset()
    frame = env.render()
    env.close()
    assert frame is not None
    assert frame.shape == (210, 160, 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_game_is_refused_with_near_matches(engine: Any) -> None:
    with pytest.raises(UnknownNameError, match=r"'atari/pnog'; did you mean .*atari/pong"):
        make_vector_env(replace(PONG, id="atari/pnog", engine=engine), 1, 0)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"env\.noop_max must be at least 1, got 0"):
        make_vector_env(replace(PONG, noop_max=0), 1, 0)
    with pytest.raises(UnknownNameError, match="option of environment 'atari/pong' 'colour'"):
        make_vector_env(replace(PONG, engine="gymnasium", options={"colour": 1}), 1, 0)
