"""A run as discrete events: who computes, sends and waits for whom, and for how long.

Actors, shards and learner ranks take CPU seconds from the cores of their machines and bytes from
its link, which all who use them at a time share. What holds them is the replay's own limiter
(``replay_service/limiter.py``), asked as the inline runtime asks it::

    actor     reserve_insert ─→ a chunk's CPU seconds ─→ (link) ─→ shard's CPU seconds,
              while it goes on, up to so many chunks ahead
    learner   reserve_sample ─→ shard's CPU seconds ─→ (link) ─→ up to `prefetch` batches wait
              batch ─→ train ─→ every publish_every_steps: weights to each machine (link)

Left out: evaluations, checkpoints, reports, and the all-reduce of ranks, which share a machine.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import simpy
from simpy.events import AllOf, Event

from replay_service.limiter import ReplayRatioLimiter
from wm_distributed.api import DataSpec
from wm_distributed.launch.capacity.figures import Cluster, Figures, Outcome, Workload
from wm_distributed.launch.capacity.shared import Shared

_WARM_UP = 0.25
"""Share of the simulated time that is not counted: queues are still filling."""
_ROUNDS, _TRAIN_STEPS = 20, 60
"""What is simulated: so many chunks of every actor, and at least so many train steps."""
_INSERTS_IN_FLIGHT = 8
"""Chunks of an actor that may be unanswered, as in ``replay_service/client.py``."""

Steps = Generator[Event, Any, None]


def simulate(figures: Figures, workload: Workload, cluster: Cluster) -> Outcome:
    """Rates of a run once it has got going; the same every time.

    Args:
        figures: Costs of the steps.
        workload: What is done.
        cluster: With what.
    """
    return _Simulation(figures, workload, cluster).run()


class _Machine:
    def __init__(self, env: simpy.Environment, cluster: Cluster) -> None:
        self.cores = Shared(env, cluster.cores)
        link = cluster.gbit * 1e9 / 8
        self.sends, self.receives = Shared(env, link), Shared(env, link)


class _Simulation:
    def __init__(self, figures: Figures, workload: Workload, cluster: Cluster) -> None:
        self._figures, self._workload, self._cluster = figures, workload, cluster
        self._env = simpy.Environment()
        self._machines = [_Machine(self._env, cluster) for _ in range(cluster.machines)]
        self._limiter = ReplayRatioLimiter(workload.ratio, 0)
        self._changed = self._env.event()
        self._batches = simpy.Store(self._env, workload.prefetch)
        self._env_steps = self._train_steps = 0
        self._acting = self._training = 0.0  # seconds, of all actors and of the learner

    def run(self) -> Outcome:
        env, end = self._env, self._duration()
        env.process(self._others())
        for actor in range(self._workload.num_actors):
            env.process(self._act(self._machine(actor), actor))
        env.process(self._sample())
        env.process(self._train())
        env.run(until=end * _WARM_UP)
        before = self._counts()
        env.run(until=end)
        return self._outcome(
            [now - then for now, then in zip(self._counts(), before, strict=True)],
            end * (1 - _WARM_UP),
        )

    # ------------------------------------------------------------------------- who does what

    def _others(self) -> Steps:
        """What Ray and the driver take of the first machine, tenth by tenth of a second."""
        while True:
            begun = self._env.now
            yield self._machines[0].cores.use(0.1 * self._figures.other_cores)
            yield self._env.timeout(max(0.0, begun + 0.1 - self._env.now))

    def _act(self, machine: _Machine, actor: int) -> Steps:
        steps, figures = self._workload.chunk_env_steps, self._figures
        sent: deque[Event] = deque()
        for shard in itertools.count(actor):
            yield from self._reserve(partial(self._limiter.reserve_insert, steps, 0.0))
            begun = self._env.now
            yield machine.cores.use(steps * figures.actor_seconds, 1.0)
            if len(sent) >= _INSERTS_IN_FLIGHT:
                yield sent.popleft()
            self._acting += self._env.now - begun
            self._env_steps += steps
            insert = self._insert(machine, shard % self._workload.num_shards)
            sent.append(self._env.process(insert))

    def _insert(self, machine: _Machine, shard: int) -> Steps:
        size = self._workload.chunk_env_steps * self._figures.step_bytes
        yield self._send(machine, self._machine(shard), size)
        yield self._machine(shard).cores.use(size * self._figures.shard_seconds, 1.0)

    def _sample(self) -> Steps:
        """Keeps batches ready: each is asked for when there is room for it."""
        for data in self._turns():
            yield from self._reserve(partial(self._limiter.reserve_sample, data.trained_steps, 0.0))
            size = data.batch_size * (data.context + data.length) * self._figures.sampled_step_bytes
            shards = range(self._workload.num_shards)
            parts = [self._env.process(self._gather(s, size / len(shards))) for s in shards]
            yield AllOf(self._env, parts)
            yield self._batches.put(size)

    def _gather(self, shard: int, size: float) -> Steps:
        machine = self._machine(shard)
        yield machine.cores.use(size * self._figures.shard_seconds, 1.0)
        yield self._send(machine, self._machines[0], size)

    def _train(self) -> Steps:
        while True:
            yield self._batches.get()
            begun = self._env.now
            yield self._step()
            self._training += self._env.now - begun
            self._train_steps += 1
            if self._train_steps % self._workload.publish_every_steps == 0:
                for machine in self._machines[1:]:
                    self._send(self._machines[0], machine, self._figures.weights_bytes)

    def _step(self) -> Event:
        """A train step: on its GPUs, or on cores, of which it can use only so many at a time."""
        figures = self._figures
        if self._cluster.gpus:
            return self._env.timeout(figures.train_seconds / self._cluster.gpus)
        parallel = max(1.0, figures.train_cpu_seconds / figures.train_seconds)
        return self._machines[0].cores.use(figures.train_cpu_seconds, parallel)

    def _send(self, source: _Machine, target: _Machine, size: float) -> Event:
        if source is target:
            return self._env.event().succeed()
        return AllOf(self._env, [source.sends.use(size), target.receives.use(size)])

    # ------------------------------------------------------------------------------- helpers

    def _turns(self) -> Generator[DataSpec, None, None]:
        while True:
            for data, steps in self._workload.phases:
                yield from itertools.repeat(data, steps)

    def _machine(self, number: int) -> _Machine:
        return self._machines[number % len(self._machines)]

    def _reserve(self, reserve: Callable[[], bool]) -> Steps:
        """Asks until the limiter grants it."""
        granted = reserve()
        self._tell()  # a refusal, too, may have widened the band for others
        while not granted:
            yield self._changed
            if granted := reserve():
                self._tell()

    def _tell(self) -> None:
        """Lets everyone who was refused ask again."""
        changed, self._changed = self._changed, self._env.event()
        changed.succeed()

    def _duration(self) -> float:
        """Seconds to simulate, long enough even if everything is done one after the other."""
        figures, workload = self._figures, self._workload
        env_steps = workload.chunk_env_steps * workload.num_actors
        train_steps = env_steps * (workload.ratio or 0.0) / max(1.0, workload.trained_steps)
        train_seconds = max(figures.train_cpu_seconds, figures.train_seconds)
        link = self._cluster.gbit * 1e9 / 8
        insert_seconds = env_steps * (figures.actor_seconds + figures.step_bytes / link)
        round_seconds = insert_seconds + train_steps * train_seconds
        return _ROUNDS * round_seconds + _TRAIN_STEPS * train_seconds

    def _counts(self) -> list[float]:
        machines = self._machines
        return [
            self._env_steps,
            self._train_steps,
            self._acting,
            self._training,
            *(machine.cores.served() for machine in machines),
            *(machine.sends.served() for machine in machines),
            *(machine.receives.served() for machine in machines),
        ]

    def _outcome(self, done: list[float], seconds: float) -> Outcome:
        env_steps, train_steps, acting, training, *served = done
        count = len(self._machines)
        cores, sent, received = served[:count], served[count : 2 * count], served[2 * count :]
        link = self._cluster.gbit * 1e9 / 8 * seconds
        return Outcome(
            num_actors=self._workload.num_actors,
            env_steps_per_second=env_steps / seconds,
            train_steps_per_second=train_steps / seconds,
            actors_held=max(0.0, 1.0 - acting / seconds / self._workload.num_actors),
            learner_busy=min(1.0, training / seconds),
            cores_busy=tuple(used / seconds / self._cluster.cores for used in cores),
            link_busy=tuple(max(pair) / link for pair in zip(sent, received, strict=True)),
        )
