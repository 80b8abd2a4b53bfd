"""What is played at the end of a search beside its solution's episodes: baseline and video."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from actors.evaluation import record_episode
from wm_distributed.errors import WmError
from wm_distributed.launch.evaluation import Evaluator
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.launch.search_host import FINAL
from wm_distributed.launch.search_plan import SearchPlan
from wm_distributed.launch.watched_env import WatchedEnv
from wm_distributed.seeding import evaluation_seed
from wm_distributed.types import Array, Weights

_MAX_VIDEO_STEPS = 1000


class SearchPlayer:
    """Plays whole episodes. One thread calls it; another may look at its property."""

    def __init__(self, search: SearchPlan, weights: Weights | None) -> None:
        """Makes no environment yet.

        Args:
            search: The search.
            weights: What its policy acts with beside its parameters.
        """
        self._search = search
        self._weights = weights
        self._random = Evaluator(search.plan)
        self._env: WatchedEnv | None = None

    def random(self, episodes: int) -> Evaluation:
        """The random policy, on seeds of the last evaluation.

        Raises:
            EnvError: An environment failed.
        """
        return self._random.random(FINAL, episodes)

    def record(self, params: Array) -> Evaluation:
        """One episode of the policy with given parameters, up to 1000 decisions, as a video.

        Without a result where the environment failed.
        """
        seed = evaluation_seed(self._search.plan.config.seed, FINAL)
        policy = self._search.build_policy(self._weights)
        policy.assign(0, params, seed)
        video = Evaluation(env_steps=0, train_steps=0, version=self._search.version, results=())
        try:
            opened = self._search.plan.open_env(1, seed, evaluation=True, render=True)
            with closing(WatchedEnv(opened)) as self._env:
                frames, result = record_episode(self._env, policy, _MAX_VIDEO_STEPS)
        except WmError as error:
            return replace(video, no_video=str(error))
        finally:
            self._env = None
        return replace(video, results=(result,), frames=frames, recorded=result)

    @property
    def busy_seconds(self) -> float:
        """How long an environment has been asked for an answer that has not come yet."""
        env = self._env
        return self._random.busy_seconds if env is None else env.busy_seconds
