"""EnvPool's steps against physics computed anew, with its resets, repeats and limits."""

import math
from dataclasses import replace
from pathlib import Path

import envpool
import numpy as np
import pytest

from wm_distributed.config import EnvConfig
from wm_distributed.envs import env_spaces, make_vector_env
from wm_distributed.errors import ConfigError
from wm_distributed.types import Array, EnvStep

CARTPOLE = EnvConfig(id="gym/CartPole-v1", engine="envpool")


def cart_pole_step(state: Array, action: int) -> Array:
    """Barto, Sutton and Anderson's cart-pole, one Euler step of 0.02 s, as in Gymnasium."""
    x, speed, angle, spin = (float(v) for v in state)
    force = 10.0 if action == 1 else -10.0
    cos, sin = math.cos(angle), math.sin(angle)
    pull = (force + 0.05 * spin**2 * sin) / 1.1
    spin_up = (9.8 * sin - cos * pull) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    push = pull - 0.05 * spin_up * cos / 1.1
    return np.array(
        [x + 0.02 * speed, speed + 0.02 * push, angle + 0.02 * spin, spin + 0.02 * spin_up]
    )


def falls(state: Array) -> bool:
    return abs(float(state[0])) > 2.4 or abs(float(state[2])) > 12 * math.pi / 180


def check_follows(before: EnvStep, action: Array, after: EnvStep, repeat: int) -> None:
    """Everything in ``after`` but the truncation must follow from ``before`` and the action."""
    np.testing.assert_array_equal(after.is_first, before.is_last)
    for n, state in enumerate(before.obs["vector"]):
        if before.is_last[n]:
            assert np.abs(after.obs["vector"][n]).max() <= 0.05
            assert after.reward[n] == 0
            assert not after.is_last[n]
            continue
        frames = 0
        while frames < repeat and not falls(state):
            frames += 1
            state = cart_pole_step(state, int(action[n]))
        np.testing.assert_allclose(after.obs["vector"][n], state, atol=1e-4)
        assert after.is_terminal[n] == falls(state)
        assert after.reward[n] == frames


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("engine", ["envpool", "gymnasium"])
def test_every_step_follows_from_the_one_before(engine: str, repeat: int) -> None:
    config = EnvConfig(
        id="gym/CartPole-v1",
        engine=engine,  # type: ignore[arg-type]
        action_repeat=repeat,
        max_episode_steps=18 // repeat,
    )
    env = make_vector_env(config, 4, 0)
    rng = np.random.default_rng(0)
    before = env.reset()
    lengths = np.zeros(4, int)
    terminals = truncations = 0
    for _ in range(150):
        action = rng.integers(2, size=4)
        after = env.step(action)
        check_follows(before, action, after, repeat)
        lengths = np.where(after.is_first, 0, lengths + 1)
        np.testing.assert_array_equal(after.is_last, after.is_terminal | (lengths == 18 // repeat))
        terminals += int(after.is_terminal.sum())
        truncations += int((after.is_last & ~after.is_terminal).sum())
        before = after
    env.close()
    assert terminals > 5
    assert truncations > 5


def test_a_step_that_skipped_the_reset_would_be_noticed() -> None:
    env = make_vector_env(CARTPOLE, 2, 0)
    before = env.reset()
    action = np.array([1, 1])
    middle = env.step(action)
    after = env.step(action)
    env.close()
    with pytest.raises(AssertionError):
        check_follows(before, action, after, 1)
    check_follows(middle, action, after, 1)


def test_the_first_reward_is_zero_although_the_pool_repeats_the_last_one() -> None:
    pool = envpool.make_gymnasium("WalkerWalk-v1", num_envs=1, num_threads=1, max_episode_steps=3)
    pool.reset()
    raw = [float(pool.step(np.zeros((1, 6)))[1][0]) for _ in range(4)]
    assert raw[3] == raw[2] > 0  # the fourth step only resets

    env = make_vector_env(EnvConfig(id="dmc/walker_walk", max_episode_steps=3), 1, 0)
    env.reset()
    steps = [env.step(np.zeros((1, 6), np.float32)) for _ in range(4)]
    env.close()
    assert float(steps[2].reward[0]) > 0
    assert steps[3].is_first[0]
    assert float(steps[3].reward[0]) == 0


def test_equal_seeds_give_equal_episodes_whatever_the_other_environments() -> None:
    two, three = make_vector_env(CARTPOLE, 2, 5), make_vector_env(CARTPOLE, 3, 5)
    assert not np.array_equal(*two.reset().obs["vector"])
    three.reset()
    for k in range(40):
        action = np.full(3, k % 2)
        np.testing.assert_array_equal(
            two.step(action[:2]).obs["vector"], three.step(action).obs["vector"][:2]
        )
    two.close()
    three.close()


def test_both_engines_have_the_same_spaces() -> None:
    assert env_spaces(CARTPOLE) == env_spaces(replace(CARTPOLE, engine="gymnasium"))


def test_closing_ends_the_threads() -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    make_vector_env(CARTPOLE, 1, 0).close()  # the first pool of a process leaves one more behind
    before = threads()
    env = make_vector_env(replace(CARTPOLE, options={"num_threads": 5}), 5, 0)
    assert threads() >= before + 5
    env.close()
    assert threads() == before


def test_it_draws_the_first_environment_if_asked() -> None:
    env = make_vector_env(CARTPOLE, 2, 0, render=True)
    env.reset()
    frame = env.render()
    env.close()
    assert frame is not None
    assert frame.shape == (400, 600, 3)
    assert frame.std() > 0


def test_unknown_options_are_refused() -> None:
    config = EnvConfig(id="car_racing", engine="envpool", options={"gravitas": 9})
    with pytest.raises(ConfigError, match=r"EnvPool cannot make 'car_racing' with .*gravitas"):
        make_vector_env(config, 1, 0)
