"""What ``test_doom.py`` runs in processes of their own: ``python doom_checks.py NAME``."""

import sys

import numpy as np

from wm_distributed.config import EnvConfig
from wm_distributed.envs import make_vector_env


def whole_episodes() -> None:
    """Frames survived are the reward, and death is terminal."""
    env = make_vector_env(EnvConfig(id="doom/take_cover", action_repeat=4), 2, 1)
    step = env.reset()
    assert step.obs["image"].shape == (2, 64, 64, 3)
    assert len(np.unique(step.obs["image"])) > 20
    assert env.spaces.action.n == 3
    returns, ended = np.zeros(2), []
    for _ in range(400):
        step = env.step(np.zeros(2, np.int32))
        returns = np.where(step.is_first, 0.0, returns + step.reward)
        ended += [
            (value, step.is_terminal[n]) for n, value in enumerate(returns) if step.is_last[n]
        ]
    env.close()
    assert len(ended) >= 2
    assert all(terminal and 20 <= value <= 2_100 and value % 4 == 0 for value, terminal in ended)


def a_cut_episode() -> None:
    """An episode is cut where the configuration says."""
    env = make_vector_env(EnvConfig(id="doom/take_cover", max_episode_steps=5), 1, 1)
    env.reset()
    steps = [env.step(np.zeros(1, np.int32)) for _ in range(7)]
    env.close()
    assert [bool(step.is_last[0]) for step in steps] == [False] * 4 + [True] + [False] * 2
    assert not steps[4].is_terminal[0]
    assert bool(steps[5].is_first[0])


if __name__ == "__main__":
    globals()[sys.argv[1]]()
