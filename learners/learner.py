"""The learner's loop: take a batch, train, write back, publish; now and then save and report.

::

    stream.next ─→ trainable.train_step ─→ stream.write_back (latents, priorities)
         ↑                  │ every publish_every_steps
       replay               └─→ sink.publish

A phase that sweeps goes through everything stored once and trains nothing: what the trainable makes
of it (latents) is written back, and later phases refuse steps that it has not reached.

With several ranks, all run this loop on their parts of each batch; rank 0 alone publishes, saves
and reports. With several groups (``groups.py``), each runs it on phases of its own, and they meet
before each cycle. Nothing here waits for the device except the reading of metrics (every
``log_every_steps``), publications, checkpoints and reports.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

import torch

from learners.batch_stream import BatchStream, Sampled
from learners.groups import Meetings
from learners.metric_window import MetricWindow
from learners.process_group import local_batch_size
from learners.publisher import Publisher
from learners.requests import Requests
from learners.turns import PhaseTurns
from learners.write_back import begin_write_back, refuse_unswept
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import Phase, Report, Trainable
from wm_distributed.checkpoint import Checkpointer
from wm_distributed.collective import Collective
from wm_distributed.config import LearnerConfig, ReplayConfig
from wm_distributed.errors import CheckpointError, EndOfSweepError, WmError
from wm_distributed.roles import WeightsSink
from wm_distributed.seeding import random_state, set_random_state
from wm_distributed.timing import WorkMeter
from wm_distributed.types import TensorBatch, Weights

logger = logging.getLogger(__name__)
T = TypeVar("T")

_POLL_SECONDS = 0.5
"""How long a step waits for a batch before it lets its caller look at other things."""


class Learner:
    """One rank's training. One thread runs it; others may read stats and leave requests.

    ::

        learner.start()              # publishes the first weights
        learner.run(should_stop)     # or: learner.step() as often as wanted
        learner.finish()             # publishes and saves the last ones

    What another thread wants done between two steps, it leaves with :meth:`request`::

        weights = learner.request(learner.snapshot).result()
        learner.request(lambda: learner.keep_if_best(weights.train_steps, mean_return))

    After :meth:`finish`, :meth:`final_weights` gives what the run has to show for itself.
    """

    def __init__(
        self,
        trainable: Trainable,
        phases: Sequence[Phase],
        streams: Mapping[str, BatchStream],
        config: LearnerConfig,
        *,
        device: torch.device,
        collective: Collective | None = None,
        sink: WeightsSink | None = None,
        checkpointer: Checkpointer | None = None,
        repeat: bool = True,
        ages: AgeLimits | None = None,
        meetings: Meetings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins the first phase.

        Args:
            trainable: What is trained, on ``device``.
            phases: Gradient phases and sweeps, see :class:`~learners.turns.PhaseTurns`.
            streams: This rank's batches, by phase name.
            config: How often to publish, save, report and log.
            device: Where the trainable and the batches are.
            collective: The group of ranks; none: a single rank.
            sink: Where weights go, on rank 0.
            checkpointer: Where checkpoints go, on rank 0.
            repeat: Whether the first phase comes again after the last; otherwise training is then
                finished.
            ages: What the batches are held to; has to be told of publications. None: nothing.
            meetings: With the other learner groups; None: there are none.
            clock: In seconds.

        Raises:
            ConfigError: A phase takes no batches, or they cannot be divided.
        """
        self._trainable = trainable
        self._turns = PhaseTurns(phases, repeat=repeat)
        self._streams = streams
        self._config = config
        self._device = device
        self._collective = collective or Collective()
        self._checkpointer = checkpointer
        self._ages = ages = ages or AgeLimits(ReplayConfig())
        self._meetings = meetings
        self._publisher = Publisher(trainable, sink, ages, meetings, clock)
        self._clock = clock
        ranks = self._collective.world_size
        self._batch_sizes = [local_batch_size(s.batch_size, ranks) for s in self._turns.specs]

        self._train_steps = 0
        self._swept_version = 0
        self._agreed_at = -1
        self._carry: Any = None
        self._begin_phase()

        self._meter = WorkMeter("wait", "train")
        self._window = MetricWindow()
        self._metrics: dict[str, float] = {}
        self._timings: dict[str, float] = {}
        self._report: Report | None = None
        self._newest: tuple[str, TensorBatch] | None = None  # phase and batch
        self._requests = Requests()
        self._saved_time = self._reported_time = clock()

    @property
    def train_steps(self) -> int:
        """Train steps since the run began, resumptions included."""
        return self._train_steps

    @property
    def phase(self) -> str:
        """Name of the phase whose turn it is, or was last; empty if there is none."""
        return self._turns.name

    @property
    def phase_steps(self) -> int:
        """Batches of that phase so far."""
        return self._turns.steps

    @property
    def finished(self) -> bool:
        """Whether the last phase is done and none comes again."""
        return self._turns.finished

    def start(self, newest_version: int = 0) -> None:
        """Publishes the weights as they are, so that actors can begin, and saves a run that begins.

        Args:
            newest_version: The newest version that an actor may already have; what is published is
                newer, although a resumed learner may have forgotten its last publications. That of
                rank 0 counts.
        """
        newest = torch.tensor(newest_version, device=self._device)
        newest_version = int(self._collective.broadcast_(newest).item())
        self._publisher.version = max(self._publisher.version, newest_version)
        self._publish()
        self._call_meeting()
        if self._train_steps == 0:
            self._save()

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Trains until told to stop, or finished.

        With several ranks, all must stop after the same step. They ask each other every
        ``log_every_steps`` steps, and stop when ``should_stop`` of any of them says so.

        Raises:
            DeadlineError: No batch came within the reader's deadline (prefetching streams).
            DivergedError: The loss is no longer finite.
            WmError: It cannot go on for another reason; what was trained has been saved.
        """
        try:
            while not (self.finished or self._all_stop(should_stop)):
                self.step()
        except WmError:
            try:
                self._save()
            except WmError as error:
                logger.warning("what was trained last is not saved: %s", error)
            raise

    def step(self) -> bool:
        """One batch of the current phase; False if none came for a short while, or at the end."""
        self._requests.serve()
        if self._clock() - self._saved_time >= self._config.checkpoint_every_seconds:
            self._save()
        if self.finished or not self._others_are_ready():
            return False
        try:
            with self._meter.measure("wait"):
                item = self._streams[self.phase].next(_POLL_SECONDS)
        except EndOfSweepError:
            self._end_phase()
            return True
        if item is None:
            return False
        use = self._sweep if self._turns.sweeps else self._train
        use(item)
        self._meter.count(1)
        if self._turns.count():
            self._end_phase()
        return True

    def finish(self) -> None:
        """Publishes, saves and reports on what the last steps have learned; closes the streams."""
        self._requests.serve()
        self._publish(again=False)
        self._call_meeting(last=True)
        self._save()
        self._make_report()
        for stream in self._streams.values():
            stream.close()

    def request(self, call: Callable[[], T]) -> Future[T]:
        """For any thread: has something called between two steps; its error ends the training."""
        return self._requests.add(call)

    def snapshot(self) -> Weights:
        """Saves and gives the weights as they are, so that exactly they can be evaluated."""
        self._save(candidate=True)
        return self._publisher.weights(self._train_steps)

    def keep_if_best(self, train_steps: int, score: float) -> None:
        """Keeps the last :meth:`snapshot` if it scored better than all before.

        Args:
            train_steps: Of the snapshot.
            score: Mean return of its evaluation.
        """
        if self._checkpointer is not None:
            self._checkpointer.keep_if_best(train_steps, score)

    def final_weights(self, which: Literal["newest", "best"]) -> Weights:
        """The weights to judge the run by; not to be called before its end.

        Args:
            which: Best takes over the checkpoint that was evaluated best, where there is one.
        """
        if which == "best" and self._checkpointer is not None and self._checkpointer.exists("best"):
            try:
                self.load_state_dict(self._checkpointer.load("best").state)
            except CheckpointError as error:
                logger.warning("the newest weights stand in for the best ones: %s", error)
        return self._publisher.weights(self._train_steps)

    def take_report(self) -> Report | None:
        """The newest report, once; None if there is no new one."""
        report, self._report = self._report, None
        return report

    def stats(self) -> dict[str, float]:
        """Metrics under ``learner/`` and ``train/``; rates are of the time since the last call."""
        rate, shares = self._meter.read()
        waited = [stream.waited_seconds() for stream in self._streams.values()]
        return {
            "learner/train_steps": float(self._train_steps),
            "learner/train_steps_per_second": rate,
            "learner/wait_share": shares["wait"],
            "learner/ratio_wait_seconds": sum(w.get("ratio", 0.0) for w in waited),
            "learner/data_wait_seconds": sum(
                w.get("data", 0.0) + w.get("transfer", 0.0) for w in waited
            ),
            "learner/stale_sequences": float(self._ages.stale_sequences),
            "learner/version": float(self._publisher.version),
            **self._publisher.timings,
            **self._timings,
            **self._metrics,
        }

    def state_dict(self) -> dict[str, Any]:
        """Trainable, progress and random state: everything that a checkpoint holds."""
        return {
            "trainable": self._trainable.state_dict(),
            "train_steps": self._train_steps,
            "version": self._publisher.version,
            "turns": self._turns.state_dict(),
            "random": random_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`; call it before :meth:`start`, on every rank.

        The random state is rank 0's. The other ranks keep theirs, which must differ from it:
        :func:`~wm_distributed.seeding.rank_seed` gives them one.

        Raises:
            CheckpointError: The trainable does not fit the state.
        """
        self._trainable.load_state_dict(state["trainable"])
        self._train_steps = int(state["train_steps"])
        self._publisher.version = int(state["version"])
        self._turns.load_state_dict(state["turns"])
        self._begin_phase()
        if self._collective.rank == 0:
            set_random_state(state["random"])

    def _train(self, item: Sampled) -> None:
        refuse_unswept(item.oldest_latents, self._swept_version, self.phase)
        self._newest = self.phase, item.batch
        if self._clock() - self._reported_time >= self._config.report_every_seconds:
            self._make_report()  # before the step: the model has not been trained on this batch yet
        with self._meter.measure("train"):
            self._pass_through(item)
            self._train_steps += 1
            if self._train_steps % self._config.log_every_steps == 0:
                self._read_metrics(item.batch)
        if self._train_steps % self._config.publish_every_steps == 0:
            self._publish()

    def _sweep(self, item: Sampled) -> None:
        if self._turns.steps == 0:
            self._publish()  # so that no step can hold latents of this version already
            self._swept_version = self._publisher.version
        with self._meter.measure("train"):
            self._pass_through(item)

    def _pass_through(self, item: Sampled) -> None:
        """Gives the trainable a batch, and begins to write back what it makes of it."""
        batch, addresses, _ = item
        self._carry, output = self._trainable.train_step(self.phase, self._carry, batch)
        self._window.add(output.metrics)
        spec = self._turns.specs[self._turns.index]
        update = begin_write_back(spec, batch, addresses, output, self._publisher.version)
        if update is not None:
            self._streams[self.phase].write_back(update)

    def _begin_phase(self) -> None:
        if not self.finished:
            batch_size = self._batch_sizes[self._turns.index]
            self._carry = self._trainable.init_train(self.phase, batch_size)

    def _end_phase(self) -> None:
        self._publish(again=False)
        cycle = self._turns.cycle
        self._turns.advance()
        self._begin_phase()
        if self._turns.cycle != cycle:
            self._call_meeting()

    def _call_meeting(self, *, last: bool = False) -> None:
        """Gives the other groups what they need for the present cycle, or has none any more."""
        if self._meetings is not None:
            self._meetings.call(self._turns.cycle + last, last=last)

    def _others_are_ready(self) -> bool:
        """Whether all groups have come to the present cycle; waits a short while for them."""
        if self._meetings is None:
            return True
        with self._meter.measure("wait"):
            return self._meetings.attend(_POLL_SECONDS)

    def _publish(self, *, again: bool = True) -> None:
        self._window.refuse_divergence(self._train_steps)
        self._publisher.publish(self._train_steps, again=again)
        self._collective.meet()  # before anybody waits for a batch that needs these weights

    def _read_metrics(self, batch: TensorBatch) -> None:
        """Reads the window's means, and how old the newest batch's data are, in versions."""
        self._window.refuse_divergence(self._train_steps)
        self._window.add_ages(batch, self._publisher.version)
        self._metrics = self._window.read()

    def _make_report(self) -> None:
        """Reports on the newest batch, on rank 0."""
        if self._newest is not None and self._collective.rank == 0:
            self._report = self._trainable.report(*self._newest)
            self._reported_time = self._clock()

    def _save(self, *, candidate: bool = False) -> None:
        if self._checkpointer is None:
            return
        self._window.refuse_divergence(self._train_steps)
        started = self._clock()
        counters = {"train_steps": self._train_steps, "version": self._publisher.version}
        self._checkpointer.save(self.state_dict(), counters, candidate=candidate)
        self._saved_time = self._clock()
        self._timings["learner/checkpoint_seconds"] = self._saved_time - started

    def _all_stop(self, should_stop: Callable[[], bool]) -> bool:
        """Whether to stop now; with several ranks, the same answer on all of them."""
        if self._collective.world_size == 1:
            return should_stop()
        if self._train_steps % self._config.log_every_steps or self._agreed_at == self._train_steps:
            return False
        self._agreed_at = self._train_steps
        vote = torch.tensor(float(should_stop()), device=self._device)
        return bool(self._collective.mean_(vote).item() > 0)
