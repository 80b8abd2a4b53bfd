"""Role configurations and :class:`RunConfig`, which holds everything that defines a run.

One frozen dataclass a component; a family's own configuration lies beside its model. The command
line is made from these classes, and their field docstrings are its help text. What numbers a field
may have is in its type (see ``ranges.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

from wm_distributed.errors import ConfigError
from wm_distributed.ranges import (
    Count,
    NotNegative,
    Port,
    Positive,
    Range,
    Whole,
    check_ranges,
)
from wm_distributed.search_config import SearchConfig

FamilyConfigT = TypeVar("FamilyConfigT")


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """The environment and how it is presented to a policy."""

    id: str = "gym/CartPole-v1"
    """Environment id, such as atari/pong, dmc/walker_walk, dmc_vision/walker_walk, car_racing,
    toy/catch, gym/CartPole-v1, or module:attribute for one of your own."""
    engine: Literal["auto", "envpool", "gymnasium"] = "auto"
    """What runs it; auto is EnvPool where it has the environment (gym/*, car_racing and one's own:
    Gymnasium). The spaces are the same, the random numbers are not."""
    action_repeat: Count = 1
    """Simulator frames per decision (Atari: frame skip)."""
    image_size: Count = 64
    """Height and width of images, in pixels (toy/*: a multiple of 32)."""
    max_episode_steps: Count | None = None
    """Decisions after which an episode is truncated; none: the environment's own limit."""
    sticky_actions: bool = False
    """Atari: repeat the previous action with probability 0.25."""
    noop_max: Count = 30
    """Atari: at most this many no-op frames at the start of an episode."""
    full_action_space: bool = False
    """Atari: all 18 actions instead of the game's minimal set."""
    life_loss_terminal: bool = False
    """Atari: the loss of a life ends the episode in training (not in evaluation)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments for the environment's constructor."""
    step_timeout_seconds: Positive = 60.0
    """An environment step that takes longer counts as hung."""
    max_restarts: Whole = 10
    """Failed environments that an actor replaces before the run stops with the failure."""


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """Processes that act in environments."""

    num_actors: Whole = 2
    """Actor processes."""
    envs_per_actor: Count = 4
    """Environments that one actor steps together (N)."""
    chunk_steps: Count = 32
    """Steps of each environment that travel to replay in one message."""
    num_threads: Count = 1
    """CPU threads of the policy in each actor process."""
    max_restarts: Whole = 100
    """Restarts of one dead actor process within an hour before the run stops with its error."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """The sharded replay service."""

    num_shards: Count = 2
    """Shard processes."""
    capacity_steps: Count = 1_000_000
    """Steps held by all shards together; the oldest are evicted."""
    capacity_bytes: Count | None = None
    """Memory for the data of all shards together, in bytes; none: no limit but the steps."""
    min_size: Whole = 1_000
    """Steps in replay before training begins."""
    ratio: Positive | None = 32.0
    """Trained steps per environment step, context excluded, over all shards: at most those of 1,000
    batches; none: no limit."""
    max_policy_lag: Whole | None = None
    """Versions of the policy that a sampled step may be behind the newest; none: any number."""
    max_latent_age: Whole | None = None
    """Versions published since its latents were stored; none: any number."""
    when_stale: Literal["warn", "pause", "discard"] = "warn"
    """What a sampled sequence beyond these limits causes: it is trained on with a warning, training
    waits for a batch without any, or others are drawn in its place. All are counted."""
    wait_timeout_seconds: Positive = 300.0
    """Longest wait for the replay ratio or for a batch before an error names who waits."""
    offline: str | None = None
    """Run, or export of one, whose steps are trained on: nothing is collected, and actors, ratio
    and min_size mean nothing; none: actors collect."""
    durable: bool = True
    """Log every chunk in the run directory, so that a killed shard and a resumed run come back with
    what replay held. It takes as much disk as replay takes memory."""
    sync_seconds: Positive = 1.0
    """Time between syncs of the log to the disk: what the end of a machine may cost. The end of a
    process costs nothing that was acknowledged."""
    segment_bytes: Count = 2**26
    """Size of the log's files; one is written over, or deleted, when all that it holds is
    evicted."""
    compress: bool = False
    """Compress the log with zstd: less disk, more CPU time."""
    snapshot_seconds: NotNegative = 300.0
    """Time between snapshots of what the log does not hold: refreshed latents, priorities."""


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """A TCP server by which simulators outside the run act in it, or insert into its replay."""

    port: Port | None = None
    """TCP port on the driver's machine; none: no gateway."""
    host: str = "127.0.0.1"
    """Address to listen at. Anything beyond this machine, such as 0.0.0.0, needs a token."""
    token_file: str | None = None
    """File with the token that clients must know; none: the environment variable
    WM_DISTRIBUTED_GATEWAY_TOKEN, or on this machine alone no token."""
    max_streams: Count = 16
    """Simulators of all clients together. Training begins a little later for each."""
    read_timeout_seconds: Positive = 60.0
    """A client whose next message is not there by then is disconnected."""


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Processes that train."""

    num_ranks: Count = 1
    """Data-parallel learner processes; each trains on an equal part of the batch."""
    groups: tuple[str, ...] = ()
    """Phases that are trained at the same time, each group by num_ranks processes of its own, such
    as tokenizer world_model+actor_critic; empty: all in turn. The group of the last phase gives
    actors their weights, and its train steps are the run's."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: each of num_ranks keeps only its part of parameters and optimiser state, and they are
    gathered for every pass, so that larger models fit; none: each keeps all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    micro_batches: Count = 1
    """Gradient accumulation: parts in which each rank passes through its share of a batch, one
    after the other, before a train step. More of them need less memory for the same batch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the forward and backward passes; auto is bfloat16 on a GPU, else float32."""
    compile: bool = False
    """Compile the train step (a minute at the start, faster afterwards)."""
    cuda_graphs: bool = False
    """On a GPU, record the train step once and replay it as a CUDA graph: its thousands of kernels
    are then launched at once. For one rank without sharding; new, and not tried on a GPU yet."""
    num_threads: Whole = 0
    """CPU threads of each rank; 0: all cores divided by the ranks."""
    prefetch_batches: Count = 3
    """Batches requested ahead of the one in training."""
    publish_every_steps: Count = 10
    """Train steps between publications of the policy's weights."""
    checkpoint_every_seconds: NotNegative = 120.0
    """Time between checkpoints."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that are kept, beside the best."""
    report_every_seconds: NotNegative = 60.0
    """Time between reports (open-loop predictions, pictures)."""
    log_every_steps: Count = 20
    """Train steps between readings of the training metrics."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation episodes, with seeds that training never uses."""

    every_env_steps: Whole = 5_000
    """Environment steps between evaluations during training; 0: none."""
    every_train_steps: Whole = 0
    """Train steps between further evaluations; 0: none. With replay.offline only these come."""
    episodes: Count = 5
    """Episodes of an evaluation during training."""
    final_episodes: Count = 20
    """Episodes of the evaluation at the end, of the agent and of the random policy."""
    envs: Count = 5
    """Environments that the evaluator steps together."""


@dataclass(frozen=True, kw_only=True)
class StopConfig:
    """When a run ends: at whichever limit comes first."""

    env_steps: Count | None = 100_000
    """Environment steps (decisions) in replay since the start of the run."""
    train_steps: Count | None = None
    """Train steps."""
    wall_seconds: NotNegative | None = None
    """Time of training, resumptions included, without the final evaluation."""
    eval_return: float | None = None
    """Mean return of an evaluation during training that is good enough to stop."""
    eval_returns_in_a_row: Count = 1
    """Evaluations, one after another, that have to return as much. A search looks at one."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Families whose phases follow each other, from a collection on; the others ignore this."""

    phases: tuple[str, ...] = ()
    """Phases to run; empty: all. What the others would have made comes from the source."""
    source: str | None = None
    """Directory of an earlier run whose model is taken over, and whose experience is trained on
    unless this run collects its own."""
    rounds: Count = 1
    """How often all phases are run; from the second time on, what the first controller found is
    collected, too."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the processes are run."""

    kind: Literal["ray", "inline"] = "ray"
    """ray: one process a role; inline: all in this process, in lockstep and repeatable."""
    ray_address: str | None = None
    """Ray cluster to join ("auto", or host:port); none: start one on this machine."""
    metrics_port: Annotated[int, Range(at_least=0, at_most=65535)] | None = None
    """Port of the Prometheus endpoint on the driver; none: no endpoint, 0: any free port."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Generic[FamilyConfigT]):
    """Everything that defines a run. A preset is a function that returns one."""

    family: str
    """World-model family, or module:attribute of a FamilySpec of your own."""
    preset: str = "custom"
    """Preset that this configuration came from."""
    model: FamilyConfigT
    """The family's own configuration."""
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0
    """Seed of everything random."""
    env: EnvConfig = field(default_factory=EnvConfig)
    actors: ActorConfig = field(default_factory=ActorConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    @property
    def num_streams(self) -> int:
        """Environments that fill replay at the same time, those of the gateway's clients too."""
        outside = 0 if self.gateway.port is None else self.gateway.max_streams
        return self.actors.num_actors * self.actors.envs_per_actor + outside

    def __post_init__(self) -> None:
        """Checks what can be checked without the family.

        Raises:
            ConfigError: A value is out of range, naming the field and what is allowed.
        """
        check_ranges(self)
        if self.actors.num_actors < 1 and self.gateway.port is None:
            raise ConfigError(
                "actors.num_actors must be at least 1 where there is no gateway, got "
                f"{self.actors.num_actors}"
            )
        if self.runtime.kind == "inline" and self.runtime.ray_address is not None:
            raise ConfigError(
                f"runtime.ray_address is {self.runtime.ray_address!r}, but runtime.kind inline "
                "runs all in this process: set it to none, or runtime.kind to ray"
            )
        if self.replay.min_size > self.replay.capacity_steps:
            raise ConfigError(
                f"replay.min_size {self.replay.min_size} can never be reached: "
                f"replay.capacity_steps is {self.replay.capacity_steps}"
            )
        stop, episodes = self.stop, self.search.max_episodes
        limits = (stop.env_steps, stop.train_steps, stop.wall_seconds, episodes)
        if all(limit is None for limit in limits):
            raise ConfigError(
                "the run would never end: set one of the fields of stop, or, for a search, "
                "search.max_episodes"
            )
