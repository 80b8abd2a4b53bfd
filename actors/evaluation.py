"""Evaluation episodes, and the recording of one as a video."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import TypeVar

import numpy as np

from actors.actions import executable_action
from actors.episodes import EpisodeTracker
from wm_distributed.api import Policy, VectorEnv
from wm_distributed.errors import EnvError
from wm_distributed.types import Array, EpisodeResult

logger = logging.getLogger(__name__)
T = TypeVar("T")

_LONG_STEPS = 100_000
"""Decisions after which an episode that goes on is worth a word."""


def finish(work: Generator[None, None, T]) -> T:
    """What a generator returns, once it has run to its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def evaluate(
    env: VectorEnv, policy: Policy, episodes: int, name: str = "an environment"
) -> Generator[None, None, list[EpisodeResult]]:
    """Results of exactly ``episodes`` whole episodes, in eval mode, by environment and order.

    Each environment gives its first ``episodes / N`` episodes (one more for the first ones where N
    does not divide). Taking whichever ends first would favour short episodes, and with them the
    lucky or the unlucky ones. An episode is waited for however long it is; what bounds it is the
    environment's time limit. It pauses before each step, so that the caller may give up.

    Args:
        env: Made with an :func:`~wm_distributed.seeding.evaluation_seed`; reset here, not closed.
        policy: Acts with the weights that it has loaded.
        episodes: Number of episodes, at least 1.
        name: What the environment is called, for a warning where no episode ends.

    Raises:
        EnvError: An environment failed; its episodes cannot be made up for without a bias.
    """
    quota = np.full(env.num_envs, episodes // env.num_envs)
    quota[: episodes % env.num_envs] += 1
    finished: list[list[EpisodeResult]] = [[] for _ in range(env.num_envs)]
    tracker = EpisodeTracker(env.num_envs)
    step, state = env.reset(), policy.initial_state(env.num_envs)
    waited = 0
    while True:
        for index, result in tracker.observe(step):
            if len(finished[index]) < quota[index]:
                finished[index].append(result)
                waited = 0
        if sum(map(len, finished)) == episodes:
            return [result for results in finished for result in results]
        waited += 1
        if waited == _LONG_STEPS:
            logger.warning(
                "evaluation still waits for an episode of %s to end, after %d decisions; if it has "
                "no time limit of its own, set --env.max-episode-steps", name, waited,
            )  # fmt: skip
        yield
        action, state, _ = policy.act(state, step, "eval")
        step = env.step(executable_action(env.spaces.action, action))


def record_episode(
    env: VectorEnv, policy: Policy, max_steps: int
) -> tuple[Array | None, EpisodeResult]:
    """Frames and result of one episode of the first environment, in eval mode.

    Args:
        env: Reset here, not closed.
        policy: Acts with the weights that it has loaded.
        max_steps: Decisions after which the recording ends, even within the episode.

    Returns:
        Frames ``uint8 (T, H, W, 3)``, the final one included, or None if the environment cannot
        draw; and the result, of the part that was recorded.

    Raises:
        EnvError: An environment failed, or draws what is no picture.
    """
    frames: list[Array] = []
    episode_return = 0.0
    step, state = env.reset(), policy.initial_state(env.num_envs)
    for length in range(max_steps + 1):
        frame = env.render()
        if frame is not None:
            _check_frame(frame, frames[0].shape if frames else (*frame.shape[:2], 3))
            frames.append(frame.copy())  # an engine may draw into the same memory again
        episode_return += float(step.reward[0])
        if step.is_last[0] or length == max_steps:
            break
        action, state, _ = policy.act(state, step, "eval")
        step = env.step(executable_action(env.spaces.action, action))
    return np.stack(frames) if frames else None, EpisodeResult(episode_return, length)


def _check_frame(frame: Array, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.shape != shape or len(shape) != 3:
        raise EnvError(
            "render() must return pictures uint8 (H, W, 3), all of one size, got "
            f"{frame.dtype} {frame.shape}"
        )
