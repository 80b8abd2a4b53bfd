"""Evaluation as the run's configuration says, in whatever process holds an :class:`Evaluator`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from actors.evaluation import evaluate, finish, record_episode
from actors.random_policy import RandomPolicy
from wm_distributed.api import Policy
from wm_distributed.errors import WmError
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.launch.watched_env import WatchedEnv
from wm_distributed.seeding import evaluation_seed
from wm_distributed.types import Array, EpisodeResult, Weights

_MAX_VIDEO_STEPS = 1000
FINAL = 0
"""Number of the final evaluation; those during training count from 1."""


class Evaluator:
    """Plays whole episodes. One thread calls it; others may look at its properties."""

    def __init__(self, plan: Plan) -> None:
        """Makes nothing yet."""
        self._plan = plan
        self._env: WatchedEnv | None = None
        self._stats: dict[str, float] = {}

    def agent(
        self, weights: Weights, number: int, episodes: int, *, env_steps: int, video: bool = False
    ) -> Evaluation:
        """Plays with published weights, see :meth:`agent_in_steps`."""
        return finish(
            self.agent_in_steps(weights, number, episodes, env_steps=env_steps, video=video)
        )

    def agent_in_steps(
        self, weights: Weights, number: int, episodes: int, *, env_steps: int, video: bool = False
    ) -> Generator[None, None, Evaluation]:
        """Plays with published weights, and pauses before each step of the episodes.

        Args:
            weights: What to evaluate.
            number: Number of the evaluation in the run, which gives the seeds.
            episodes: How many.
            env_steps: Environment steps of training, for the result.
            video: Whether to record one more episode, up to 1000 decisions.

        Raises:
            EnvError: An environment failed.
        """
        seed = evaluation_seed(self._plan.config.seed, number)
        policy = self._plan.build_policy(seed)
        policy.load_weights(weights)
        results = yield from self._play(policy, seed, episodes)
        frames, no_video = self._record(policy, seed) if video else (None, "")
        evaluation = Evaluation(
            env_steps=env_steps,
            train_steps=weights.train_steps,
            version=weights.version,
            results=results,
            frames=frames,
            no_video=no_video,
        )
        self._stats = {
            "eval/return_mean": evaluation.return_mean,
            "eval/return_std": evaluation.return_std,
            "eval/length_mean": evaluation.length_mean,
            "eval/episodes": float(len(results)),
            "eval/version": float(evaluation.version),
        }
        return evaluation

    def random(self, number: int, episodes: int) -> Evaluation:
        """Plays at random, on the same seeds as the agent.

        Raises:
            EnvError: An environment failed.
        """
        seed = evaluation_seed(self._plan.config.seed, number)
        policy = RandomPolicy(self._plan.spaces.action, seed)
        results = finish(self._play(policy, seed, episodes))
        return Evaluation(env_steps=0, train_steps=0, version=-1, results=results)

    @property
    def playing(self) -> bool:
        """Whether an evaluation has begun and not ended."""
        return self._env is not None

    @property
    def busy_seconds(self) -> float:
        """How long an environment has been asked for an answer that has not come yet."""
        env = self._env
        return 0.0 if env is None else env.busy_seconds

    def stats(self) -> dict[str, float]:
        """Metrics of the agent's last evaluation, under ``eval/``."""
        return self._stats

    def _play(
        self, policy: Policy, seed: int, episodes: int
    ) -> Generator[None, None, tuple[EpisodeResult, ...]]:
        config = self._plan.config
        with self._open(min(config.eval.envs, episodes), seed) as env:
            return tuple((yield from evaluate(env, policy, episodes, config.env.id)))

    def _record(self, policy: Policy, seed: int) -> tuple[Array | None, str]:
        """A video, or why there is none: the results count without one."""
        try:
            with self._open(1, seed, render=True) as env:
                return record_episode(env, policy, _MAX_VIDEO_STEPS)[0], ""
        except WmError as error:
            return None, str(error)

    @contextmanager
    def _open(self, num_envs: int, seed: int, *, render: bool = False) -> Iterator[WatchedEnv]:
        opened = self._plan.open_env(num_envs, seed, evaluation=True, render=render)
        self._env = env = WatchedEnv(opened)
        try:
            yield env
        finally:
            self._env = None
            env.close()
