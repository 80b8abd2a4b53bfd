"""A population search once it has been checked, and how its parts are built."""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from actors.candidate_evaluation import CandidateEvaluator
from actors.divided_evaluation import DividedEvaluator
from actors.episode_slots import EpisodeSlots
from wm_distributed.api import CandidatePolicy
from wm_distributed.candidates import TaskEvaluator
from wm_distributed.errors import CheckpointError, ConfigError
from wm_distributed.launch.experience import first_steps
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.launch.search_files import SearchFiles
from wm_distributed.launch.search_host import SearchSpec
from wm_distributed.threads import configure_threads
from wm_distributed.types import Array, Columns, EpisodeResult, Weights

_MAX_STARTS = 512
"""First frames that travel to each evaluator; 6 MB at 64×64."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search for the parameters of a policy; it travels to every evaluator.

    Attributes:
        plan: The run that it is part of.
        phase: Its name.
        spec: What the server needs.
        version: Of the weights that the policy acts with; 0: those it is born with.
        starts: Observations that dreamed episodes begin with, ``(S, …)``; None: candidates are
            evaluated in the environment.
    """

    plan: Plan
    phase: str
    spec: SearchSpec
    version: int
    starts: Columns | None = None

    def build_policy(self, weights: Weights | None) -> CandidatePolicy:
        """The policy with its weights; all evaluators have the same."""
        policy = build_candidate_policy(self.plan)
        if weights is not None:
            policy.load_weights(weights)
        if "torch" in sys.modules:  # some policies do without
            configure_threads(1)
        return policy

    def build_evaluator(self, weights: Weights | None) -> TaskEvaluator:
        """What runs the candidates' episodes."""
        config = self.plan.config
        slots = EpisodeSlots(
            lambda seed: self.plan.open_env(1, seed, evaluation=True),
            config.search.envs_per_evaluator,
            self.plan.spaces,
            config.env.max_restarts,
        )
        limits = config.search.limits
        reality = CandidateEvaluator(slots, self.build_policy(weights), limits)
        if self.starts is None:
            return reality
        dreams = self.plan.build_dream(weights, self.starts, config.search.dreams_per_evaluator)
        return DividedEvaluator(CandidateEvaluator(*dreams, limits), reality)

    def agent_evaluation(
        self, results: tuple[EpisodeResult, ...], decisions: int, video: Evaluation
    ) -> Evaluation:
        """The last evaluation of the best mean solution, with the video of another episode."""
        return replace(video, env_steps=decisions, results=results)


def build_candidate_policy(plan: Plan) -> CandidatePolicy:
    """The family's policy, which must be one that a search can drive.

    Raises:
        ConfigError: It has no parameters to search for, or cannot serve the environment.
    """
    policy = plan.build_policy(plan.config.seed)
    if not isinstance(policy, CandidatePolicy) or policy.num_parameters < 1:
        raise ConfigError(
            f"the policy of family {plan.family.name!r} ({type(policy).__name__}) has no parameter "
            "vector that a population search could find: it needs `assign` and `num_parameters`"
        )
    return policy


def plan_search(
    plan: Plan,
    weights: Weights | None,
    *,
    resume: bool,
    phase: str = "search",
    folder: Path | None = None,
    start: Array | None = None,
) -> SearchPlan:
    """A search that can be begun or gone on with.

    Args:
        plan: The checked run.
        weights: What the policy acts with beside its parameters; None: what it is born with.
        resume: Whether to go on with the search in ``folder``, if one has begun there.
        phase: Its name in displays and files.
        folder: Where it is kept; None: ``search`` in the run directory.
        start: Mean to begin with, ``(P,)``; None: zeros. A resumed search has its own.

    Raises:
        ConfigError: The policy cannot be searched, or the start has another size.
        CheckpointError: There is a search in the folder already, which is not to be resumed.
    """
    num_parameters = build_candidate_policy(plan).num_parameters
    start = np.zeros(num_parameters) if start is None else np.asarray(start, np.float64)
    if start.shape != (num_parameters,):
        raise ConfigError(
            f"the policy of family {plan.family.name!r} has {num_parameters} parameters, but the "
            f"search is to start from {start.shape}"
        )
    files = SearchFiles(folder or plan.run_dir / "search")
    if not resume and files.exist():
        raise CheckpointError(
            f"{files.folder} already holds a search; resume its run, or name another directory"
        )
    dreams = plan.config.search.where == "dream"
    starts = first_steps(plan.experience, _MAX_STARTS) if dreams else None
    spec = SearchSpec(
        config=plan.config, files=files, start=start, checksum=_checksum(plan, weights, starts)
    )
    version = 0 if weights is None else weights.version
    return SearchPlan(plan=plan, phase=phase, spec=spec, version=version, starts=starts)


def _checksum(plan: Plan, weights: Weights | None, starts: Columns | None) -> int:
    """Of what candidates are evaluated with, and in the dream of all that it is made of."""
    checksum = 0 if weights is None else zlib.crc32(weights.buffer.data)
    if starts is not None:
        checksum = zlib.crc32(repr(plan.config.model).encode(), checksum)
        for name, column in sorted(starts.items()):
            checksum = zlib.crc32(name.encode(), checksum)
            checksum = zlib.crc32(np.ascontiguousarray(column).data, checksum)
    return checksum
