"""What a run is made of once it has been checked, and how its parts are built.

Both runtimes build the same parts from the same plan; they differ in what the parts talk through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from actors.env_loop import EnvLoop
from replay_service.messages import Standing
from wm_distributed.age_limits import AgeLimits
from wm_distributed.api import (
    DataSpec,
    EnvSpaces,
    PartedTrainable,
    Phase,
    Policy,
    Trainable,
    TrainContext,
    VectorEnv,
)
from wm_distributed.candidates import CandidateActor, SeededEpisodes
from wm_distributed.config import ReplayConfig, RunConfig
from wm_distributed.families import load_family
from wm_distributed.family import FamilySpec
from wm_distributed.launch.experience import RecordingWriter
from wm_distributed.launch.phases import chosen_phases, is_pipeline
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.roles import (
    PartsExchange,
    RateLimiter,
    ReplayReader,
    ReplayWriter,
    WeightsSink,
    WeightsSource,
)
from wm_distributed.seeding import policy_seed, training_seed
from wm_distributed.types import Columns, Weights

if TYPE_CHECKING:
    from actors.gateway.server import GatewayServer
    from learners.learner import Learner
    from wm_distributed.checkpoint import Checkpointer
    from wm_distributed.collective import Collective

RESUMED = "resumed at train step %d, with %d steps in replay"
PHASES_DONE = "all phases are done"


@dataclass(frozen=True)
class Plan:
    """A checked configuration; it travels to every process that acts, trains or evaluates.

    Attributes:
        config: What to run.
        spaces: Of its environment.
        run_dir: Where checkpoints (and on one machine, logs) are written.
        round: Of a pipeline: how often its phases have begun, this time included.
    """

    config: RunConfig[Any]
    spaces: EnvSpaces
    run_dir: Path
    round: int = 1

    @property
    def family(self) -> FamilySpec:
        """The family of world models."""
        return load_family(self.config.family)

    @property
    def phases(self) -> list[Phase]:
        """The family's phases, in turn; of a pipeline, those that are to be run."""
        phases = list(self.family.phases(self.config.model))
        return chosen_phases(phases, self.config.pipeline.phases)

    @property
    def learner_phases(self) -> list[Phase]:
        """The phases that a learner runs."""
        return [phase for phase in self.phases if phase.kind in ("gradient", "sweep")]

    @property
    def learner_groups(self) -> list[list[Phase]]:
        """The learner's phases by the group that trains them; one group unless asked for more."""
        groups = [names.split("+") for names in self.config.learner.groups]
        phases = self.learner_phases
        return [[phase for phase in phases if phase.name in names] for names in groups] or [phases]

    @property
    def acting_group(self) -> int:
        """The group with whose weights actors act: that of the last phase."""
        last = self.learner_phases[-1:]
        return next(i for i, phases in enumerate(self.learner_groups) if phases[-1:] == last)

    @property
    def is_pipeline(self) -> bool:
        """Whether phases follow each other once, after a collection."""
        return is_pipeline(self.family.phases(self.config.model))

    def counts_with(self, counts: Mapping[str, int], standing: Standing) -> dict[str, int]:
        """A checkpoint's counts, with the environment steps that replay took after it."""
        collected = standing.logged_steps if self.collects else 0
        return {**counts, "env_steps": max(counts["env_steps"], collected)}

    @property
    def collection(self) -> Phase | None:
        """The phase in which actors collect alone, if that is to be run."""
        return next((phase for phase in self.phases if phase.kind == "collection"), None)

    @property
    def experience(self) -> Path:
        """Of a pipeline: where what it trains on lies."""
        source = self.config.pipeline.source
        if source is None or self.collection is not None:
            return self.run_dir / "experience"
        config, _ = RunDir.open(Path(source)).load_config()
        return replace(self, config=config, run_dir=Path(source)).experience

    def collected_steps(self) -> int | None:
        """Steps that are collected before training, not beside it; None: actors never stop."""
        if not self.is_pipeline:
            return None if self.collects else 0
        if self.collection is None:
            return 1  # an earlier run's, loaded all at once: whatever is whole of it
        assert self.collection.steps is not None, "preflight refuses collections without an end"
        return self.collection.steps * self.round

    def collected(self, env_steps: int) -> bool:
        """Whether nothing more will be collected."""
        if self.collection is None:
            return not self.collects
        return env_steps >= (self.collected_steps() or 0)

    def progress(
        self, phase: str, env_steps: int, phase_steps: int
    ) -> tuple[str, tuple[int, int] | None]:
        """The phase that is under way, and its done and aimed steps, where it has an end.

        Args:
            phase: Where the learner is.
            env_steps: That replay has got, since the beginning of the run.
            phase_steps: Batches of the learner's phase so far.
        """
        if self.collection is not None and not self.collected(env_steps):
            return self.collection.name, (env_steps, self.collected_steps() or 0)
        found = next((one for one in self.learner_phases if one.name == phase), None)
        if found is None or found.data is None:
            return phase, None
        aim = -(-env_steps // found.data.batch_size) if found.kind == "sweep" else found.steps
        return phase, None if aim is None else (phase_steps, aim)

    def first_turn(self) -> dict[str, Any]:
        """Where a learner stands that begins with the first phase."""
        from learners.turns import PhaseTurns

        return PhaseTurns(self.learner_phases, repeat=not self.is_pipeline).state_dict()

    @property
    def collects(self) -> bool:
        """Whether anybody adds steps to replay, or all are there already."""
        if self.is_pipeline:
            return self.collection is not None
        return self.config.replay.offline is None

    @property
    def num_actors(self) -> int:
        """Actors; none where nothing is collected."""
        return self.config.actors.num_actors if self.collects else 0

    @property
    def fills_replay(self) -> bool:
        """Whether any phase that is to be run puts steps into replay, or takes them from there."""
        return any(phase.kind != "population" for phase in self.phases)

    @property
    def specs(self) -> list[DataSpec]:
        """The batches of all phases, those included that this run leaves out."""
        phases = self.family.phases(self.config.model)
        return [phase.data for phase in phases if phase.data is not None]

    @property
    def replay(self) -> ReplayConfig:
        """How replay is kept; a pipeline needs no log, because its experience is recorded."""
        replay = self.config.replay
        return replace(replay, durable=replay.durable and not self.is_pipeline)

    @property
    def replay_dir(self) -> Path:
        """Where the shards keep their logs."""
        return self.run_dir / "replay"

    @property
    def num_streams(self) -> int:
        """Environments that fill replay at the same time."""
        return self.config.num_streams

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

    def build_dream(
        self, weights: Weights | None, starts: Columns, num_episodes: int
    ) -> tuple[SeededEpisodes, CandidateActor]:
        """Makes dreamed episodes, and who acts in them (see FamilySpec).

        Raises:
            ConfigError: The model cannot be dreamed in.
        """
        build = self.family.build_dream
        assert build is not None, "preflight refuses families without a dream"
        return build(self.config.model, self.spaces, weights, starts, num_episodes)

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
        if self.collection is not None:
            writer = RecordingWriter(writer, self.experience, actor, incarnation)
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

    def build_gateway(
        self,
        incarnation: int,
        writer: ReplayWriter,
        limiter: RateLimiter,
        weights: WeightsSource,
        *,
        token: str,
        key: bytes,
        seed: int,
    ) -> GatewayServer:
        """Makes the gateway's server.

        Args:
            incarnation: How often its process has been restarted.
            writer: Where its clients' chunks go.
            limiter: What holds them back.
            weights: Where it gets weights.
            token: What clients must know.
            key: What they must not, by which their tickets are known again.
            seed: The run's, or another one after a resume.
        """
        from actors.gateway.server import GatewayServer

        config = self.config
        return GatewayServer(
            self.spaces,
            # Its policy comes after those of the actors.
            self.build_policy(policy_seed(seed, config.actors.num_actors, incarnation)),
            writer,
            limiter,
            weights,
            token=token,
            key=key,
            chunk_steps=config.actors.chunk_steps,
            max_streams=config.gateway.max_streams,
            read_timeout_seconds=config.gateway.read_timeout_seconds,
        )

    def shards(self, collective: Collective) -> bool:
        """Whether each rank keeps a part of the model; one that is alone keeps all of it."""
        return self.config.learner.sharding == "fsdp" and collective.world_size > 1

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
            micro_batches=learner.micro_batches,
            sharded=self.shards(collective),
            cuda_graphs=learner.cuda_graphs,
        )
        return build(self.config.model, self.spaces, context)

    def build_learner(
        self,
        trainable: Trainable,
        make_reader: Callable[[Phase, AgeLimits], ReplayReader],
        *,
        device: str,
        collective: Collective,
        sink: WeightsSink | None,
        checkpointer: Checkpointer | None,
        prefetch: bool,
        group: int = 0,
        exchange: PartsExchange | None = None,
    ) -> Learner:
        """Makes one rank's learner.

        Args:
            trainable: From :meth:`build_trainable`.
            make_reader: Gives this rank's batches of a phase, which are held to the limits.
            device: Torch device of the trainable.
            collective: The group of ranks.
            sink: Where weights go, on rank 0.
            checkpointer: Where checkpoints go, on rank 0.
            prefetch: Whether batches are prepared by a thread beside training.
            group: Number of the rank's group.
            exchange: Where it meets the other groups; None: there are none.
        """
        import torch

        from learners.batch_stream import BatchStream, PrefetchingBatchStream
        from learners.groups import Meetings
        from learners.learner import Learner

        phases = self.learner_groups[group]
        meetings = None
        if exchange is not None:
            meetings = Meetings(
                exchange,
                cast(PartedTrainable, trainable),
                [phase.name for phase in phases],
                gives=collective.rank == 0,
                acts=group == self.acting_group,
            )
        place = torch.device(device)
        ages = AgeLimits(self.config.replay)
        streams = {}
        for phase in phases:
            reader = make_reader(phase, ages)
            streams[phase.name] = (
                PrefetchingBatchStream(reader, place, depth=1)
                if prefetch and phase.kind != "sweep"  # whose updates come before its next batch
                else BatchStream(reader, place)
            )
        return Learner(
            trainable,
            phases,
            streams,
            self.config.learner,
            device=place,
            collective=collective,
            sink=sink,
            checkpointer=checkpointer,
            repeat=not self.is_pipeline,
            ages=ages,
            meetings=meetings,
        )
