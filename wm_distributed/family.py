"""What a world-model family is to everything else: what it builds, and what it can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wm_distributed.api import EnvSpaces, Phase, Policy, Simulator, Trainable, TrainContext
from wm_distributed.candidates import CandidateActor, SeededEpisodes
from wm_distributed.config import RunConfig
from wm_distributed.types import Columns, Weights

BuildDream = Callable[
    [Any, EnvSpaces, Weights | None, Columns, int], tuple[SeededEpisodes, CandidateActor]
]


@dataclass(frozen=True)
class FamilySpec:
    """A world-model family: one folder, one of these, one line in the family table.

    A builder that is None means that the family lacks the ability; a run that needs it is refused
    before anything starts.

    Attributes:
        name: Name on the command line.
        paper: Citation.
        status: One honest line: what has been measured to learn.
        config: The family's configuration class.
        presets: Functions that return a full run configuration, by name.
        phases: The phases of a configuration.
        build_trainable: ``(config, spaces, context) -> Trainable``.
        build_policy: ``(config, spaces, seed) -> Policy``, on the CPU; a
            :class:`~wm_distributed.api.CandidatePolicy` where there is a population phase.
        build_simulator: ``(trainable) -> Simulator``.
        build_dream: ``(config, spaces, weights, starts, num_episodes)``: so many dreamed episodes
            side by side, and who acts in them, for a search in the learned model. The weights are
            the policy's, or None for untrained ones; the starts are observation columns ``(S, …)``
            of stored first steps, of which an episode's seed picks one.
        check: ``(config, spaces)``; raises ConfigError if the family cannot serve the spaces, or
            cannot use a file that the configuration names.
        notices: ``(config)``: sentences that a person is told once when a run begins.
        gives_priorities: Whether its train steps give priorities back; where they do not, a
            prioritized share is refused.
        has_parts: Whether its trainables are :class:`~wm_distributed.api.PartedTrainable`; where
            they are not, several learner groups are refused.
        splits_batches: Whether its train steps pass through batches in micro-batches, if asked to.
        can_be_sharded: Whether its trainables keep a part of the model on each rank, if asked to.
        can_be_captured: Whether its train steps run as CUDA graphs, if asked to.
    """

    name: str
    paper: str
    status: str
    config: type
    presets: Mapping[str, Callable[[], RunConfig[Any]]]
    phases: Callable[[Any], Sequence[Phase]]
    build_trainable: Callable[[Any, EnvSpaces, TrainContext], Trainable] | None = None
    build_policy: Callable[[Any, EnvSpaces, int], Policy] | None = None
    build_simulator: Callable[[Any], Simulator] | None = None
    build_dream: BuildDream | None = None
    check: Callable[[Any, EnvSpaces], None] | None = None
    notices: Callable[[Any], Sequence[str]] | None = None
    gives_priorities: bool = False
    has_parts: bool = False
    splits_batches: bool = False
    can_be_sharded: bool = False
    can_be_captured: bool = False
