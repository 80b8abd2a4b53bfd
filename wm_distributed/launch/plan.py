"""What a run is made of once it has been checked, and how its parts are built.

Both runtimes build the same parts from the same plan; they differ in what the parts talk through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.env_loop import EnvLoop
from wm_distributed.allocator import keep_freed_memory
from wm_distributed.api import (
    DataSpec,
    EnvSpaces,
    FamilySpec,
    Phase,
    Policy,
    RateLimiter,
    ReplayReader,
    ReplayWriter,
    Trainable,
    TrainContext,
    VectorEnv,
    WeightsSink,
    WeightsSource,
)
from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError
from wm_distributed.families import load_family
from wm_distributed.seeding import policy_seed, rank_seed, seed_everything, training_seed
from wm_distributed.threads import available_cpus, configure_threads, share_of_cpus

if TYPE_CHECKING:
    from learners.learner import Learner
    from wm_distributed.checkpoint import Checkpointer
    from wm_distributed.collective import Collective

RESUMED = (
    "resumed at train step %d; replay begins empty, and training goes on when it holds its minimum"
)
ReadCounts = Callable[[], Mapping[str, int]]


@dataclass(frozen=True)
class Plan:
    """A checked configuration; it travels to every process that acts, trains or evaluates.

    Attributes:
        config: What to run.
        spaces: Of its environment.
        run_dir: Where checkpoints (and on one machine, logs) are written.
    """

    config: RunConfig[Any]
    spaces: EnvSpaces
    run_dir: Path

    @property
    def family(self) -> FamilySpec:
        """The family of world models."""
        return load_family(self.config.family)

    @property
    def phases(self) -> list[Phase]:
        """The family's phases, in turn."""
        return list(self.family.phases(self.config.model))

    @property
    def specs(self) -> list[DataSpec]:
        """The batches of all gradient phases."""
        return [phase.data for phase in self.phases if phase.data is not None]

    @property
    def num_streams(self) -> int:
        """Environments that fill replay at the same time."""
        return self.config.actors.num_actors * self.config.actors.envs_per_actor

    def open_env(
        self, num_envs: int, seed: int, *, evaluation: bool = False, render: bool = False
    ) -> VectorEnv:
        """Makes environments; those for evaluation play whole episodes, whatever training does."""
        from wm_distributed.envs import make_vector_env  # the engines take a second to import

        env = self.config.env
        if evaluation:
            env = replace(env, life_loss_terminal=False)
        return make_vector_env(env, num_envs, seed, render=render)

    def build_policy(self, seed: int) -> Policy:
        """Makes an untrained policy."""
        build = self.family.build_policy
        assert build is not None, "preflight refuses families without a policy"
        return build(self.config.model, self.spaces, seed)

    def build_env_loop(
        self,
        actor: int,
        incarnation: int,
        writer: ReplayWriter,
        limiter: RateLimiter,
        weights: WeightsSource,
        *,
        seed: int,
    ) -> EnvLoop:
        """Makes an actor's loop.

        Args:
            actor: Its number in the run.
            incarnation: How often its process has been restarted.
            writer: Where its chunks go.
            limiter: What holds it back.
            weights: Where it gets weights.
            seed: The run's, or another one after a resume.
        """
        envs = self.config.actors.envs_per_actor
        return EnvLoop(
            lambda restart: self.open_env(envs, training_seed(seed, actor, incarnation, restart)),
            self.build_policy(policy_seed(seed, actor, incarnation)),
            writer,
            limiter,
            weights,
            actor=actor,
            incarnation=incarnation,
            chunk_steps=self.config.actors.chunk_steps,
            max_restarts=self.config.env.max_restarts,
            step_timeout_seconds=self.config.env.step_timeout_seconds,
        )

    def build_trainable(self, device: str, collective: Collective) -> Trainable:
        """Makes an untrained model, equal on all ranks."""
        build = self.family.build_trainable
        assert build is not None, "preflight refuses families that cannot be trained"
        learner = self.config.learner
        precision = learner.precision
        if precision == "auto":
            precision = "bfloat16" if device.startswith("cuda") else "float32"
        context = TrainContext(
            device=device,
            precision=precision,
            compile=learner.compile,
            seed=self.config.seed,
            collective=collective,
        )
        return build(self.config.model, self.spaces, context)

    def open_checkpoints(self, trainable: Trainable, read_counts: ReadCounts) -> Checkpointer:
        """The run's checkpoints, which also keep the counts of the replay ratio."""
        from wm_distributed.checkpoint import fingerprint
        from wm_distributed.launch.counted_checkpoints import CountedCheckpointer

        return CountedCheckpointer(
            self.run_dir / "checkpoints",
            read_counts,
            family=self.family.name,
            preset=self.config.preset,
            fingerprint=fingerprint(
                self.config.env.id, self.spaces, shapes(trainable.state_dict())
            ),
            keep=self.config.learner.keep_checkpoints,
        )

    def build_learner(
        self,
        trainable: Trainable,
        make_reader: Callable[[DataSpec], ReplayReader],
        *,
        device: str,
        collective: Collective,
        sink: WeightsSink | None,
        checkpointer: Checkpointer | None,
        prefetch: bool,
    ) -> Learner:
        """Makes one rank's learner.

        Args:
            trainable: From :meth:`build_trainable`.
            make_reader: Gives this rank's batches of one kind.
            device: Torch device of the trainable.
            collective: The group of ranks.
            sink: Where weights go, on rank 0.
            checkpointer: Where checkpoints go, on rank 0.
            prefetch: Whether batches are prepared by a thread beside training.
        """
        import torch

        from learners.batch_stream import BatchStream, PrefetchingBatchStream
        from learners.learner import Learner

        place = torch.device(device)
        streams = {}
        for phase in self.phases:
            assert phase.data is not None, "preflight refuses phases without data"
            reader = make_reader(phase.data)
            streams[phase.name] = (
                PrefetchingBatchStream(reader, place, depth=1)
                if prefetch
                else BatchStream(reader, place)
            )
        return Learner(
            trainable,
            self.phases,
            streams,
            self.config.learner,
            device=place,
            collective=collective,
            sink=sink,
            checkpointer=checkpointer,
        )


def choose_device(asked: str, num_ranks: int, num_gpus: int) -> str:
    """``cuda`` or ``cpu``.

    Raises:
        ConfigError: There are fewer GPUs than learner ranks.
    """
    if asked == "cpu" or (asked == "auto" and num_gpus == 0):
        return "cpu"
    if num_gpus < num_ranks:
        raise ConfigError(
            f"learner.device {asked!r} with learner.num_ranks {num_ranks} needs {num_ranks} GPUs, "
            f"but {num_gpus} are free: lower learner.num_ranks, or set learner.device to cpu"
        )
    return "cuda"


def use_threads(num_threads: int, num_ranks: int) -> None:
    """Sets the learner's CPU threads and its allocator, in its process.

    Raises:
        ConfigError: This machine has not so many cores.
    """
    cores = available_cpus()
    if num_threads > cores:
        raise ConfigError(
            f"learner.num_threads {num_threads}, but the learner's machine has {cores} CPU cores: "
            "lower it, or set it to 0 for all cores"
        )
    configure_threads(share_of_cpus(num_threads, num_ranks))
    keep_freed_memory()


def seed_rank(seed: int, rank: int, train_steps: int) -> None:
    """Seeds a rank's generators; other numbers come after a resume than at the beginning."""
    seed_everything(rank_seed(seed, rank, train_steps))


def shapes(state: object) -> object:
    """A state with each tensor replaced by its shape, which says whether another one fits."""
    if isinstance(state, Mapping):
        return {key: shapes(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [shapes(value) for value in state]
    return tuple(state.shape) if hasattr(state, "shape") else type(state).__name__
