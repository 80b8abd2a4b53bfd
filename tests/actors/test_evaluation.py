from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces

from actors.evaluation import evaluate, finish, record_episode
from wm_distributed.api import EnvSpaces
from wm_distributed.errors import EnvError
from wm_distributed.testing import CountingVectorEnv
from wm_distributed.testing.counting_models import CountingPolicy
from wm_distributed.types import ActMode, Array, Columns, EnvStep

SPACES = CountingVectorEnv(1).spaces


class Always1(CountingPolicy):
    """Every decision earns 2, so an episode of length n returns 2·n."""

    def __init__(self) -> None:
        super().__init__(SPACES, 0)
        self.modes: set[ActMode] = set()

    def act(self, state: Array, step: EnvStep, mode: ActMode) -> tuple[Array, Array, Columns]:
        self.modes.add(mode)
        action, state, extras = super().act(state, step, mode)
        return np.ones_like(action), state, extras


def lengths(episodes: int, num_envs: int) -> list[int]:
    return [r.length for r in finish(evaluate(CountingVectorEnv(num_envs), Always1(), episodes))]


def test_each_environment_gives_its_first_episodes() -> None:
    # Lengths by environment: 3 5 2 4, 5 2 4 3, 2 4 3 5, 4 3 5 2.
    assert lengths(8, 4) == [3, 5, 5, 2, 2, 4, 4, 3]
    assert lengths(6, 4) == [3, 5, 5, 2, 2, 4]
    assert lengths(2, 4) == [3, 5]
    assert lengths(5, 1) == [3, 5, 2, 4, 3]


def test_short_episodes_are_not_favoured() -> None:
    class TwoKinds(CountingVectorEnv):
        """Environment 0 has episodes of 2 decisions, the other ones of 5."""

        def __init__(self) -> None:
            super().__init__(2, seed=0)
            for env, episode in zip(self._envs, (2, 1), strict=True):
                env.reset = lambda env=env, episode=episode, **_: self._start(env, episode)

        @staticmethod
        def _start(env: object, episode: int) -> tuple[Array, dict[str, object]]:
            env.__dict__.update(_identity=0, _episode=episode, _count=0)
            return np.array([0, episode, 0], np.float32), {}

    results = finish(evaluate(TwoKinds(), Always1(), 10))
    assert [r.length for r in results] == [2] * 5 + [5] * 5
    assert np.mean([r.episode_return for r in results]) == 7.0  # whichever ends first: below 6


def test_the_policy_is_in_eval_mode_and_returns_are_sums_of_rewards() -> None:
    policy = Always1()
    results = finish(evaluate(CountingVectorEnv(2), policy, 3))
    assert [r.episode_return for r in results] == [6, 10, 10]
    assert policy.modes == {"eval"}


def test_an_environment_whose_episodes_do_not_end_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Endless(CountingVectorEnv):
        def step(self, action: Array) -> EnvStep:
            ended = super().step(action)
            return replace(ended, is_last=np.zeros(2, bool), is_terminal=np.zeros(2, bool))

    monkeypatch.setattr("actors.evaluation._LONG_STEPS", 20)
    evaluation = evaluate(Endless(2), Always1(), 2, "gym/Endless-v0")
    for _ in range(19):
        next(evaluation)
    assert not caplog.text
    for _ in range(30):
        next(evaluation)
    (record,) = caplog.records
    assert "gym/Endless-v0 to end, after 20 decisions" in record.getMessage()
    assert "--env.max-episode-steps" in record.getMessage()


def test_a_recording_has_every_frame_of_one_episode() -> None:
    frames, result = record_episode(CountingVectorEnv(2), Always1(), max_steps=100)
    assert (result.length, result.episode_return) == (3, 6.0)
    assert frames is not None
    assert frames.shape == (4, 8, 8, 3)
    assert frames.dtype == np.uint8
    assert frames[:, 0, 0, 0].tolist() == [0, 10, 20, 30]


def test_a_recording_ends_at_its_limit() -> None:
    frames, result = record_episode(CountingVectorEnv(1), Always1(), max_steps=2)
    assert frames is not None
    assert len(frames) == 3
    assert (result.length, result.episode_return) == (2, 4.0)


def test_an_environment_that_cannot_draw_gives_no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingVectorEnv, "render", lambda self: None)
    frames, result = record_episode(CountingVectorEnv(1), Always1(), max_steps=100)
    assert frames is None
    assert result.length == 3


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_what_is_no_picture_is_refused(picture: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingVectorEnv, "render", lambda _: picture)
    with pytest.raises(EnvError, match=r"render\(\) must return pictures uint8 \(H, W, 3\)"):
        record_episode(CountingVectorEnv(1), Always1(), max_steps=10)


def test_actions_beyond_the_space_are_clipped_as_in_training() -> None:
    executed = []

    class BoxEnv(CountingVectorEnv):
        def __init__(self) -> None:
            super().__init__(2)
            self.spaces = EnvSpaces(SPACES.obs, spaces.Box(-1, 1, (2,), np.float32))

        def step(self, action: Array) -> EnvStep:
            executed.append(action)
            return super().step(np.zeros(2, np.int64))

    class Wild(Always1):
        def act(self, state: Array, step: EnvStep, mode: ActMode) -> tuple[Array, Array, Columns]:
            return np.full((2, 2), 1.5), state, {}

    finish(evaluate(BoxEnv(), Wild(), 2))
    record_episode(BoxEnv(), Wild(), 2)
    assert {float(np.abs(action).max()) for action in executed} == {1.0}
