"""The configuration of a population search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from wm_distributed.errors import ConfigError
from wm_distributed.ranges import Count, NotNegative, Positive, Range, Whole, check_ranges
from wm_distributed.seeding import MAX_ENVS


@dataclass(frozen=True, kw_only=True)
class EpisodeLimits:
    """Early ends of candidates' episodes. Evaluations of the mean always play whole ones."""

    steps: Count | None = None
    """Decisions after which an episode of the first generation is cut; none: never."""
    growth: NotNegative = 0.0
    """Decisions that are added with every generation."""
    patience: Count | None = None
    """Decisions without a reward above zero after which an episode is given up; none: never."""

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return self.steps is not None or self.patience is not None

    def exceeded(self, generation: int, length: int, idle: int) -> bool:
        """Whether a candidate's episode ends now.

        Args:
            generation: Number of the generation.
            length: Decisions so far.
            idle: Decisions since the last reward above zero.
        """
        if self.patience is not None and idle >= self.patience:
            return True
        return self.steps is not None and length >= self.steps + self.growth * generation


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Population search for a policy's parameters, by CMA-ES."""

    where: Literal["env", "dream"] = "env"
    """Where candidates are evaluated: in the environment, or in the family's learned model. The
    mean solution is always evaluated in the environment, and then in the dream, too."""
    islands: Count = 1
    """Populations that search independently and share the evaluators fairly."""
    population_size: tuple[Annotated[int, Range(at_least=4)], ...] = (64,)
    """Candidates of a generation: one number for all islands, or one for each."""
    sigma: tuple[Positive, ...] = (0.1,)
    """First standard deviation of the parameters: one for all islands, or one for each."""
    episodes: Count = 4
    """Episodes of a candidate; all candidates of a generation get the same seeds."""
    episodes_up_to: Count | None = None
    """Episodes of a candidate are doubled up to so many, each time when most of what candidates
    differ by has been noise for some generations; none: never."""
    limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    """Early ends of candidates' episodes, which save time where candidates are hopeless."""
    covariance: Literal["auto", "full", "diagonal"] = "auto"
    """Shape of the search distribution; auto is full up to 2,000 parameters."""
    weight_decay: NotNegative = 0.0
    """This times the mean square of the parameters is taken off a candidate's return."""
    quorum: Annotated[float, Range(at_least=0.5, at_most=1)] = 1.0
    """Share of the candidates whose results end a generation, at least 0.5. Below 1 the slowest
    ones are left out, which favours short episodes and depends on timing."""
    restarts: Literal["none", "ipop", "bipop"] = "none"
    """After an island has converged: stop; double the population; or do so in turn with small
    populations and small steps."""
    migrate_every: Whole = 0
    """Generations after which an island tries the best mean of the others; 0: never. With it, the
    course of the search depends on the order in which results arrive."""
    held_out_every: Whole = 25
    """Generations between evaluations of the mean on seeds never trained on; 0: none."""
    held_out_episodes: Annotated[int, Range(at_least=1, at_most=MAX_ENVS)] = 32
    """Episodes of such an evaluation."""
    max_episodes: Count | None = None
    """Training episodes after which an island stops; none: no limit."""
    lease_seconds: Positive = 600.0
    """An evaluator that has not answered by then is taken for lost, and its tasks run again
    elsewhere under the same seeds."""
    num_evaluators: Count = 2
    """Evaluator processes; each takes a core."""
    envs_per_evaluator: Count = 16
    """Episodes that one evaluator runs side by side, with one policy for all of them."""
    dreams_per_evaluator: Count = 64
    """Dreamed episodes that one evaluator computes as one batch: best a multiple of 32."""
    max_restarts: Whole = 100
    """Restarts of one dead evaluator within an hour before the run stops with its error."""
    recycle_episodes: Count = 20_000
    """Episodes after which an evaluator's process gives way to a new one: some engines keep memory
    of every environment that they ever made."""
    recycle_bytes: Whole = 1_000_000_000
    """Growth of an evaluator's memory, in bytes, at which it does so earlier."""
    checkpoint_every_seconds: NotNegative = 60.0
    """Time between checkpoints. None of the results since then is lost: they are in a journal."""

    def __post_init__(self) -> None:
        """Raises ConfigError if a value is out of range, naming the field and what is allowed."""
        check_ranges(self, "search.")
        for name, values in (("population_size", self.population_size), ("sigma", self.sigma)):
            if len(values) not in (1, self.islands):
                raise ConfigError(
                    f"search.{name} needs one value, or one for each of the {self.islands} "
                    f"islands, got {len(values)}: {values}"
                )
        self._check_episodes()
        if self.where == "dream" and self.limits.patience is not None:
            raise ConfigError(
                f"search.limits.patience is {self.limits.patience}, but dreamed rewards are "
                "predictions, hardly ever zero: set it to none, or search.where to env"
            )
        if self.held_out_every == 0 and (self.islands > 1 or self.restarts != "none"):
            raise ConfigError(
                "islands and restarts are compared by held-out evaluations: set "
                "search.held_out_every above 0"
            )

    def _check_episodes(self) -> None:
        up_to = self.episodes_up_to
        if up_to is not None and up_to < self.episodes:
            raise ConfigError(
                f"search.episodes_up_to must be at least search.episodes, {self.episodes}, got "
                f"{up_to}"
            )
        if up_to is not None and up_to > self.episodes == 1:
            raise ConfigError(
                "search.episodes_up_to needs search.episodes of at least 2: one episode of each "
                "candidate does not show how much of their differences is noise"
            )
