"""DeepMind Control by EnvPool and dm_control, and its pictures."""

import ctypes
from dataclasses import replace
from typing import Any

import envpool
import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.config import EnvConfig
from wm_distributed.envs import dmc, env_spaces, make_vector_env
from wm_distributed.envs.dm_control_env import DmControlEnv
from wm_distributed.errors import ConfigError, UnknownNameError

WALKER = EnvConfig(id="dmc/walker_walk")
VISION = EnvConfig(id="dmc_vision/cartpole_swingup", image_size=32)
ENGINES: list[Any] = ["envpool", "gymnasium"]


def test_both_engines_have_the_same_spaces() -> None:
    ours, theirs = (env_spaces(replace(WALKER, engine=engine)) for engine in ENGINES)
    assert ours == theirs
    assert list(ours.obs) == ["height", "orientations", "velocity"]
    assert ours.obs["height"].shape == (1,)
    assert ours.action == spaces.Box(-1.0, 1.0, (6,), np.float32)


@pytest.mark.parametrize("name", [*sorted(dmc._UNUSED), "humanoid_CMU_run", "lqr_lqr_2_1"])
def test_tasks_whose_names_or_keys_differ_have_the_same_spaces(name: str) -> None:
    config = EnvConfig(id=f"dmc/{name}")
    ours, theirs = (env_spaces(replace(config, engine=engine)) for engine in ENGINES)
    assert ours == theirs


def test_every_task_of_the_suite_is_known() -> None:
    from dm_control import suite

    for domain, task in suite.ALL_TASKS:
        spec = envpool.make_spec(dmc.envpool_name(f"{domain}_{task}"))
        assert spec.config.task_name == task


@pytest.mark.parametrize("engine", ENGINES)
def test_episodes_are_cut_and_never_terminal(engine: Any) -> None:
    config = EnvConfig(id="dmc/cartpole_swingup", engine=engine, action_repeat=2)
    env = make_vector_env(config, 2, 0)
    env.reset()
    action = np.zeros((2, 1), np.float32)
    steps = [env.step(action) for _ in range(501)]
    env.close()
    assert [t for t, step in enumerate(steps, 1) if step.is_last.any()] == [500]
    assert steps[499].is_last.all()
    assert steps[500].is_first.all()
    assert not any(step.is_terminal.any() for step in steps)
    assert all((step.reward >= 0).all() and (step.reward <= 2).all() for step in steps)


def test_both_engines_move_alike() -> None:
    """From rest with full force: the pole's start differs by a hundredth, the cart's hardly."""
    reached = []
    for engine in ENGINES:
        config = EnvConfig(id="dmc/cartpole_balance", engine=engine, action_repeat=4)
        env = make_vector_env(config, 8, 0)
        start = env.reset().obs["position"][:, 0]
        for _ in range(10):
            step = env.step(np.ones((8, 1), np.float32))
        env.close()
        reached.append(float(np.mean(step.obs["position"][:, 0] - start)))
    assert reached[0] > 0.5
    assert reached[0] == pytest.approx(reached[1], rel=0.05)


def test_a_terminating_task_ends_with_a_terminal() -> None:
    class Timestep:
        reward, observation, discount = 0.5, {"position": np.zeros(2)}, 0.0

        def last(self) -> bool:
            return True

    env = DmControlEnv("lqr", "lqr_2_1", None, {})
    env._env.step = lambda action: Timestep()
    assert env.step(np.zeros(1))[2:4] == (True, False)
    Timestep.discount = 1.0
    assert env.step(np.zeros(1))[2:4] == (False, True)
    env.close()


def test_pictures_show_what_happens() -> None:
    env = make_vector_env(VISION, 2, 0, render=True)
    assert env.spaces.obs == {"image": spaces.Box(0, 255, (32, 32, 3), np.uint8)}
    first = env.reset().obs["image"]
    assert not np.array_equal(first[0], first[1])
    for _ in range(5):
        last = env.step(np.ones((2, 1), np.float32)).obs["image"]
    moved = (np.abs(last.astype(int) - first) > 30).any(axis=(1, 2, 3))
    frame = env.render()
    env.close()
    assert moved.all()
    assert frame is not None
    assert frame.shape == (240, 320, 3)


def test_the_small_shadow_map_changes_hardly_a_pixel() -> None:
    from dm_control import suite

    ours = DmControlEnv("cartpole", "swingup", 64, {})
    small = ours.reset(seed=3)[0]["image"].astype(int)
    env = suite.load("cartpole", "swingup", task_kwargs={"random": 3})
    env.reset()
    exact = env.physics.render(64, 64, camera_id=0)
    assert np.abs(small - exact).mean() < 0.1
    assert exact.std() > 10
    ours.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_task_is_refused_with_near_matches(engine: Any) -> None:
    with pytest.raises(
        UnknownNameError, match=r"'dmc/walker_wlak'; did you mean .*dmc/walker_walk"
    ):
        make_vector_env(EnvConfig(id="dmc/walker_wlak", engine=engine), 1, 0)


def test_pictures_without_egl_are_refused_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ConfigError, match=r"libEGL.so.1.*apt-get install -y libegl1 libgl1"):
        make_vector_env(VISION, 1, 0)


def test_pictures_by_envpool_are_refused() -> None:
    with pytest.raises(ConfigError, match="not served by EnvPool"):
        make_vector_env(replace(VISION, engine="envpool"), 1, 0)
