"""The toys: what can be won, what is drawn, and that seeds decide everything."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.api import VectorEnv
from wm_distributed.config import EnvConfig
from wm_distributed.envs import make_vector_env
from wm_distributed.envs.toy import Catch
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.types import Array, EnvStep

CATCH = EnvConfig(id="toy/catch", image_size=32)
PADDLE, BALL = (64, 192, 255), (255, 208, 64)


def nav(**options: bool) -> EnvConfig:
    return EnvConfig(id="toy/nav", image_size=32, options=dict(options))


def find(image: Array, colour: tuple[int, int, int]) -> Array:
    """Mean row and column of the pixels of that colour."""
    return np.argwhere((image == colour).all(axis=-1)).mean(axis=0)


class Catcher:
    """Plays catch from the pictures: remembers where the ball was, and meets it where it lands."""

    def __init__(self, num_envs: int) -> None:
        self._before: list[Array | None] = [None] * num_envs

    def act(self, step: EnvStep) -> Array:
        return np.array([self._choose(n, step) for n in range(len(self._before))])

    def _choose(self, n: int, step: EnvStep) -> int:
        row, column = ball = find(step.obs["image"][n], BALL)
        before = None if step.is_first[n] else self._before[n]
        self._before[n] = ball
        drift = 0.0 if before is None else column - before[1]
        if before is not None and abs(drift) < 1 and row > 1:
            drift = 0.0  # just bounced: unclear for one step
        for _ in range(round((29 - row) / Catch.FALL)):
            column += drift
            if not 1 <= column <= 30:
                column, drift = (2 - column if column < 1 else 60 - column), -drift
        offset = column - find(step.obs["image"][n], PADDLE)[1]
        return 1 if abs(offset) <= 1.5 else (2 if offset > 0 else 0)


def returns(env: VectorEnv, policy: Any, num_steps: int) -> Array:
    step = env.reset()
    results = []
    for _ in range(num_steps):
        step = env.step(policy(step))
        results += step.reward[step.is_last].tolist()
    env.close()
    return np.array(results)


def test_a_perfect_player_always_catches() -> None:
    results = returns(make_vector_env(CATCH, 16, 0), Catcher(16).act, 300)
    assert len(results) == 16 * 20  # 14 steps and a reset
    assert results.mean() == 1.0


def test_a_random_player_mostly_misses() -> None:
    rng = np.random.default_rng(0)
    env = make_vector_env(CATCH, 64, 0)
    results = returns(env, lambda _: rng.integers(3, size=64), 600)
    assert len(results) == 64 * 40
    assert set(results) == {-1.0, 1.0}
    assert -0.6 < results.mean() < -0.4


def test_a_game_of_catch_ends_terminally_after_fourteen_steps() -> None:
    env = make_vector_env(CATCH, 3, 0)
    env.reset()
    steps = [env.step(np.ones(3, np.int32)) for _ in range(31)]
    assert [t for t, step in enumerate(steps, 1) if step.is_last.any()] == [14, 29]
    assert all(np.array_equal(step.is_last, step.is_terminal) for step in steps)
    assert [t for t, step in enumerate(steps, 1) if step.is_first.all()] == [15, 30]
    assert all((step.reward == 0).all() for step in steps if not step.is_last.any())


def test_the_ball_bounces_off_the_walls_and_nothing_leaves_the_picture() -> None:
    env = make_vector_env(CATCH, 32, 0)
    step = env.reset()
    turned = 0
    tracks = [[find(image, BALL)[1] for image in step.obs["image"]]]
    for _ in range(14):
        step = env.step(np.full(32, 2))
        for image in step.obs["image"]:
            assert (image == BALL).all(axis=-1).sum() == 9
            assert (image == PADDLE).all(axis=-1).sum() in range(7, 11)  # the ball may cover some
        tracks.append([find(image, BALL)[1] for image in step.obs["image"]])
    drift = np.diff(np.array(tracks), axis=0)
    assert np.abs(drift).max() == 2
    turned = (np.sign(drift).max(axis=0) > np.sign(drift).min(axis=0)).sum()
    assert 5 < turned < 32


@pytest.mark.parametrize("config", [CATCH, nav(), nav(continuous=True, goal=True)])
def test_the_seed_decides_and_the_number_of_environments_does_not(config: EnvConfig) -> None:
    def frames(num_envs: int, seed: int) -> Array:
        env = make_vector_env(config, num_envs, seed)
        rng = np.random.default_rng(0)
        seen = [env.reset().obs["image"][:2]]
        for _ in range(80):
            discrete = isinstance(env.spaces.action, spaces.Discrete)
            one = rng.integers(3) if discrete else rng.uniform(-1, 1, 2).astype(np.float32)
            seen.append(env.step(np.stack([one] * num_envs)).obs["image"][:2])
        return np.array(seen)

    np.testing.assert_array_equal(frames(2, 7), frames(5, 7))
    assert not np.array_equal(frames(2, 7), frames(2, 8))
    np.testing.assert_array_equal(frames(2, 7)[:, 1], frames(2, 8)[:, 0])  # seeds 8 and 8


def test_pictures_are_the_callers_to_keep() -> None:
    env = make_vector_env(CATCH, 2, 0)
    first = env.reset()
    kept = first.obs["image"].copy()
    env.step(np.array([0, 2]))
    np.testing.assert_array_equal(first.obs["image"], kept)


def test_the_square_goes_where_it_is_told() -> None:
    env = make_vector_env(nav(), 1, 0)
    at = find(env.reset().obs["image"][0], (255, 255, 255))
    for action, move in enumerate([(0, 0), (-3, 0), (3, 0), (0, -3), (0, 3)]):
        now = find(env.step(np.array([action])).obs["image"][0], (255, 255, 255))
        np.testing.assert_array_equal(now, np.clip(at + move, 1.5, 29.5))
        at = now


def test_two_numbers_move_the_square_down_and_right() -> None:
    env = make_vector_env(nav(continuous=True), 1, 3)
    env.reset()
    for _ in range(12):
        step = env.step(np.array([[1.0, -1.0]], np.float32))
    np.testing.assert_array_equal(find(step.obs["image"][0], (255, 255, 255)), [29.5, 1.5])


def test_the_background_stays_within_an_episode_and_changes_between() -> None:
    env = make_vector_env(replace(nav(), max_episode_steps=5), 1, 0)
    frames = [env.reset().obs["image"][0]]
    steps = [env.step(np.array([0])) for _ in range(6)]
    frames += [step.obs["image"][0] for step in steps]
    assert all(np.array_equal(frame, frames[0]) for frame in frames[:6])
    assert not np.array_equal(frames[6], frames[0])
    assert [bool(step.is_last[0]) for step in steps] == [False] * 4 + [True, False]
    assert not any(step.is_terminal.any() for step in steps)
    assert frames[0].std(axis=(0, 1)).min() > 20


def test_reaching_the_goal_is_rewarded_and_ends_the_episode() -> None:
    env = make_vector_env(nav(goal=True), 8, 0)
    step = env.reset()
    reached = 0
    for _ in range(60):
        actions = np.zeros(8, int)
        for n, image in enumerate(step.obs["image"]):
            green = (image == (64, 255, 96)).all(axis=-1)
            if green.any():
                down, right = np.argwhere(green).mean(axis=0) - find(image, (255, 255, 255))
                actions[n] = (2 if down > 0 else 1) if abs(down) > 3 else (4 if right > 0 else 3)
        step = env.step(actions)
        np.testing.assert_array_equal(step.reward == 1, step.is_terminal)
        reached += int(step.is_terminal.sum())
    assert reached > 30


def test_without_a_goal_there_is_no_reward() -> None:
    env = make_vector_env(nav(), 4, 0)
    env.reset()
    rng = np.random.default_rng(0)
    steps = [env.step(rng.integers(5, size=4)) for _ in range(64)]
    assert steps[63].is_last.all()
    assert not any(step.reward.any() or step.is_terminal.any() for step in steps)


def test_action_repeat_moves_further_and_stops_at_the_end() -> None:
    env = make_vector_env(replace(CATCH, action_repeat=4), 2, 0)
    env.reset()
    steps = [env.step(np.array([1, 1])) for _ in range(5)]
    assert [bool(step.is_last.all()) for step in steps] == [False, False, False, True, False]
    assert [find(step.obs["image"][0], BALL)[0] for step in steps[:4]] == [9, 17, 25, 29]
    assert set(np.abs(steps[3].reward)) == {1.0}


def test_options_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="'toy/nav' 'gaol'; did you mean goal"):
        make_vector_env(nav(gaol=True), 1, 0)
    with pytest.raises(ConfigError, match="option goal is true or false, got 'yes'"):
        make_vector_env(EnvConfig(id="toy/nav", options={"goal": "yes"}), 1, 0)
    with pytest.raises(ConfigError, match="no engine 'envpool'"):
        make_vector_env(EnvConfig(id="toy/catch", engine="envpool"), 1, 0)


@pytest.mark.parametrize("config", [CATCH, nav()], ids=lambda config: config.id)
def test_larger_pictures_show_the_same(config: EnvConfig) -> None:
    small = make_vector_env(config, 3, 5).reset().obs["image"]
    for times in (1, 2, 3):
        env = make_vector_env(replace(config, image_size=32 * times), 3, 5)
        assert env.spaces.obs["image"].shape == (32 * times, 32 * times, 3)
        large = env.reset().obs["image"]
        assert large.shape == (3, 32 * times, 32 * times, 3)
        for row in range(times):
            for column in range(times):
                np.testing.assert_array_equal(large[:, row::times, column::times], small)


@pytest.mark.parametrize("env_id", ["toy/catch", "toy/nav"])
@pytest.mark.parametrize("size", [16, 48])
def test_a_size_that_cannot_be_drawn_is_refused(env_id: str, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"{env_id}.*image_size must be 32, 64, .*got {size}"):
        make_vector_env(EnvConfig(id=env_id, image_size=size), 1, 0)
