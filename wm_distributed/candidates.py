"""The interfaces of a population search: who asks, who acts, and where the episodes run.

::

    PopulationSearch ─ask→ TaskSource ─lease→ TaskEvaluator: CandidateActor in SeededEpisodes
                     ←tell─           ←tell──
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from wm_distributed.types import (
    ActMode,
    Array,
    CandidateTask,
    Columns,
    EnvStep,
    EpisodeResult,
)

if TYPE_CHECKING:
    from wm_distributed.api import EnvSpaces


class CandidateActor(Protocol):
    """Acts in N environments, or dreams, with another parameter vector in each.

    What it does in one environment depends on that one's observations, parameters and seed, to the
    last bit, and not on the others or on its index; the number of environments may matter.
    """

    def initial_state(self, num_envs: int) -> Any:
        """As a :class:`~wm_distributed.api.Policy`."""

    def act(self, state: Any, step: EnvStep, mode: ActMode) -> tuple[Array, Any, Columns]:
        """As a :class:`~wm_distributed.api.Policy`."""

    @property
    def num_parameters(self) -> int:
        """Size P of the parameter vector."""

    def assign(self, env: int, parameters: Array, seed: int) -> None:
        """Gives one environment its parameters, from its next ``is_first`` on.

        Args:
            env: Index of the environment.
            parameters: ``float64 (P,)``.
            seed: Of whatever is random in the policy.
        """


class SeededEpisodes(Protocol):
    """N slots, in each of which an episode runs, of an environment or of a dream, or none.

    An episode depends on its seed and its actions, to the last bit, and not on its slot, on the
    other slots or on what ran there before; N may matter.
    """

    num_slots: int
    spaces: EnvSpaces

    def start(self, slot: int, seed: int) -> None:
        """Begins an episode instead of what was in the slot; the next ``step`` gives its start."""

    def stop(self, slot: int) -> None:
        """Empties a slot."""

    def step(self, action: Array) -> EnvStep:
        """The next step of every episode; an episode's first ``step`` ignores its action.

        The slot of an episode that has ended is empty afterwards. Where an environment fails, its
        episode ends there, with the reward NaN. The rows of empty slots are zeros with
        ``is_first``.

        Args:
            action: ``int (N,)`` or ``float32 (N, A)``.

        Raises:
            EnvError: Too many episodes in a row failed; this is the last one's.
        """

    def close(self) -> None:
        """Empties all slots."""


class PopulationSearch(Protocol):
    """Black-box search over a policy's parameter vector; maximises."""

    def ask(self) -> list[tuple[CandidateTask, Array]]:
        """Tasks of the current generation that have no result yet, with their parameters."""

    def tell(self, task: CandidateTask, result: EpisodeResult) -> bool:
        """Takes a result; False if it was already there or came too late."""

    def best(self) -> Array:
        """The mean solution: what is reported and evaluated."""

    def should_stop(self) -> bool:
        """Whether the search has converged or spent its budget."""

    def state_dict(self) -> dict[str, Any]:
        """Everything, with the random state, so that a resumed search asks the same."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""


class TaskEvaluator(Protocol):
    """Runs the tasks of a population search. One thread calls it; another may read the stats."""

    num_slots: int
    """Episodes that it runs side by side."""

    @property
    def num_waiting(self) -> int:
        """Tasks that have been added and not begun."""

    @property
    def num_running(self) -> int:
        """Episodes under way."""

    @property
    def busy_seconds(self) -> float:
        """How long the environments have been asked for a step that has not come yet."""

    def advance(self) -> list[tuple[CandidateTask, EpisodeResult]]:
        """Acts until at least one episode has ended; the results, empty if there is no task."""

    def work(self, source: TaskSource, name: str, backlog: int = 0) -> bool:
        """One round: leases tasks, acts until an episode ends, and tells the results.

        Args:
            source: Where tasks come from and results go.
            name: This evaluator's name.
            backlog: Tasks to hold beyond those that run, so that no slot waits for the source.

        Returns:
            False if there was nothing to do.
        """

    def stats(self) -> dict[str, float]:
        """Metrics of the time since the last call."""

    def close(self) -> None:
        """Closes the environments; tasks that have not ended are forgotten."""


class TaskSource(Protocol):
    """How an evaluator gets candidates to evaluate, and sends what they are worth."""

    def lease(self, evaluator: str, count: int) -> list[tuple[CandidateTask, Array]]:
        """At most ``count`` tasks with their parameters ``float64 (P,)``; none if none is free."""

    def tell(self, results: Sequence[tuple[CandidateTask, EpisodeResult]]) -> int:
        """Takes results; how many were new."""
