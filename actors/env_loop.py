"""The loop of an actor: act in N environments and send what happened to replay.

::

    fetch weights ─→ act ─→ append ─→ step ─→ … chunk_steps times … ─→ insert N chunks
         ↑                                                                  │
         └──────────── reserve N · chunk_steps at the rate limiter ←────────┘

Recurrent state is carried from chunk to chunk. Environments that raise EnvError are replaced: what
they gave so far is inserted, and a sequence number is left out, so that replay seals the N streams
there and never joins the steps before and after.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from actors.actions import executable_action
from actors.episodes import EpisodeTracker
from actors.sequence_writer import SequenceWriter
from actors.watchdog import Watchdog
from wm_distributed.api import Policy, VectorEnv
from wm_distributed.errors import EnvError
from wm_distributed.roles import RateLimiter, ReplayWriter, WeightsSource
from wm_distributed.timing import WorkMeter
from wm_distributed.types import EnvStep, EpisodeResult

logger = logging.getLogger(__name__)

EnvFactory = Callable[[int], VectorEnv]
"""Makes the N environments, given how often this process has replaced them (for the seed)."""

_RECENT_EPISODES = 20


class EnvLoop:
    """Acts in N environments. One thread runs it; others may read stats."""

    def __init__(
        self,
        env_factory: EnvFactory,
        policy: Policy,
        writer: ReplayWriter,
        limiter: RateLimiter,
        weights: WeightsSource,
        *,
        actor: int,
        incarnation: int,
        chunk_steps: int,
        max_restarts: int = 10,
        step_timeout_seconds: float = 60.0,
    ) -> None:
        """Makes nothing yet: the environments are opened by the first :meth:`run_chunk`.

        Args:
            env_factory: Called with 0, and again with 1, 2, … after failures; use the number in
                the seed, or the same failure may come again.
            policy: Chooses the actions; gets newer weights between chunks.
            writer: Where chunks go.
            limiter: Holds this actor back while it is ahead of the learners.
            weights: Where newer weights come from.
            actor: Number of this actor in the run.
            incarnation: How often this actor's process has been restarted.
            chunk_steps: Steps of each environment in a chunk.
            max_restarts: Failed environments that are replaced before the failure is raised.
            step_timeout_seconds: A reset or step that takes longer is logged as hung.
        """
        self._env_factory = env_factory
        self._policy = policy
        self._replay = writer
        self._limiter = limiter
        self._weights = weights
        self._actor = actor
        self._incarnation = incarnation
        self._chunk_steps = chunk_steps
        self._max_restarts = max_restarts
        self._step_timeout_seconds = step_timeout_seconds

        self._env: VectorEnv | None = None
        self._step: EnvStep | None = None
        self._state: Any = None
        self._tracker = EpisodeTracker(0)
        self._sequences: SequenceWriter | None = None
        self._watchdog: Watchdog | None = None
        self._busy_since: float | None = None

        self._meter = WorkMeter("env", "inference", "insert", "wait")
        self._recent: deque[EpisodeResult] = deque(maxlen=_RECENT_EPISODES)
        self._env_steps = 0
        self._episodes = 0
        self._restarts = 0
        self._fetch_seconds = 0.0

    def run_chunk(self, timeout_seconds: float) -> bool:
        """Collects and inserts one chunk of every environment.

        Args:
            timeout_seconds: Longest wait for the rate limiter.

        Returns:
            False if the rate limiter held the actor for the whole time; nothing has happened then.

        Raises:
            EnvError: The environments failed once more than ``max_restarts``; the cause is the
                environment's own error.
        """
        env_steps = self._ready().num_envs * self._chunk_steps
        with self._meter.measure("wait"):
            if not self._limiter.reserve_insert(env_steps, timeout_seconds):
                return False
        self._fetch_weights()
        for _ in range(self._chunk_steps):
            self._tick()
        self._insert()
        return True

    @property
    def heartbeat_age_seconds(self) -> float:
        """Time since the environments were asked for a step; 0 while none is awaited."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def stats(self) -> dict[str, float]:
        """Metrics under ``actor/``; rates and shares are of the time since the last call."""
        rate, shares = self._meter.read()
        stats = {
            "actor/env_steps": float(self._env_steps),
            "actor/episodes": float(self._episodes),
            "actor/env_steps_per_second": rate,
            "actor/policy_version": float(self._policy.version),
            "actor/fetch_seconds": self._fetch_seconds,
            "actor/env_restarts": float(self._restarts),
        }
        stats |= {f"actor/{name}_share": share for name, share in shares.items()}
        if recent := list(self._recent):
            stats["actor/return_mean"] = float(np.mean([e.episode_return for e in recent]))
            stats["actor/length_mean"] = float(np.mean([e.length for e in recent]))
        return stats

    def close(self) -> None:
        """Waits until what was inserted is stored, then frees the environments."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        if self._env is not None:
            self._env.close()
            self._env = self._step = None
        self._replay.flush()

    # ------------------------------------------------------------------------------ one step

    def _tick(self) -> None:
        """Acts on index t, stores it, and steps to t + 1."""
        env = self._ready()
        assert self._step is not None
        assert self._sequences is not None
        with self._meter.measure("inference"):
            action, self._state, extras = self._policy.act(self._state, self._step, "train")
            action = executable_action(env.spaces.action, action)
        with self._meter.measure("insert"):
            self._sequences.append(self._step, action, extras, self._policy.version)
        try:
            self._observe(lambda: env.step(action))
        except EnvError as error:
            self._replace(error)

    def _observe(self, call: Callable[[], EnvStep]) -> None:
        """Takes the next step from the environments, under the eyes of the watchdog."""
        self._busy_since = time.monotonic()
        try:
            with self._meter.measure("env"):
                self._step = call()
        finally:
            self._busy_since = None
        for _, result in self._tracker.observe(self._step):
            self._episodes += 1
            self._recent.append(result)

    def _insert(self) -> None:
        assert self._sequences is not None
        with self._meter.measure("insert"):
            env_steps = self._sequences.insert(self._policy.version)
        self._env_steps += env_steps
        self._meter.count(env_steps)

    def _fetch_weights(self) -> None:
        started = time.perf_counter()
        weights = self._weights.fetch(self._policy.version)
        if weights is not None:
            self._policy.load_weights(weights)
            self._fetch_seconds = time.perf_counter() - started

    # -------------------------------------------------------------- opening and replacing

    def _ready(self) -> VectorEnv:
        """The environments, opened and reset if they are not there."""
        while self._env is None or self._step is None:
            try:
                self._open()
            except EnvError as error:
                self._replace(error)
        return self._env

    def _open(self) -> None:
        if self._watchdog is None:
            name = f"environment of actor {self._actor}"
            self._watchdog = Watchdog(
                lambda: self.heartbeat_age_seconds, self._step_timeout_seconds, name
            )
            self._watchdog.start()
        self._env = env = self._env_factory(self._restarts)
        if self._sequences is None:
            self._sequences = SequenceWriter(
                self._replay,
                actor=self._actor,
                incarnation=self._incarnation,
                num_envs=env.num_envs,
                chunk_steps=self._chunk_steps,
            )
        self._tracker = EpisodeTracker(env.num_envs)
        self._state = self._policy.initial_state(env.num_envs)
        self._observe(env.reset)

    def _replace(self, error: EnvError) -> None:
        """Closes failed environments and seals their streams; new ones are opened when needed."""
        where = f"environment of actor {self._actor}, incarnation {self._incarnation}"
        if self._restarts >= self._max_restarts:
            raise EnvError(
                f"{where}: failed {self._restarts + 1} times, env.max_restarts allows "
                f"{self._max_restarts}; last failure: {error}"
            ) from error
        self._restarts += 1
        logger.warning("%s: replaced (%d of %d): %s", where, self._restarts, self._max_restarts,
                       error)  # fmt: skip
        env, self._env, self._step = self._env, None, None
        if env is not None:
            env.close()
        if self._sequences is not None:
            self._insert()
            self._sequences.end_streams()
