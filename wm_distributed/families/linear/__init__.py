"""A policy without a world model, found by a population search: the quickest way to try one.

It is also the baseline that says what a family's world model adds.
"""

from __future__ import annotations

from wm_distributed.api import EnvSpaces, Phase, Policy
from wm_distributed.families.linear.config import LinearConfig
from wm_distributed.families.linear.presets import PRESETS
from wm_distributed.family import FamilySpec


def _phases(config: LinearConfig) -> list[Phase]:
    return [Phase(name="search", data=None, kind="population")]


def _build_policy(config: LinearConfig, spaces: EnvSpaces, seed: int) -> Policy:
    from wm_distributed.families.linear.policy import LinearPolicy

    return LinearPolicy(config, spaces)


FAMILY = FamilySpec(
    name="linear",
    paper="none: a baseline, searched by CMA-ES (Hansen, arXiv 1604.00772)",
    status="learns CartPole",
    config=LinearConfig,
    presets=PRESETS,
    phases=_phases,
    build_policy=_build_policy,
)
