"""Runs a population search on Ray."""

from __future__ import annotations

from wm_distributed.errors import ConfigError
from wm_distributed.launch.search_plan import SearchPlan
from wm_distributed.launch.search_runtime import InlineSearchRuntime
from wm_distributed.types import Weights


class RaySearchRuntime(InlineSearchRuntime):
    """A :class:`~wm_distributed.launch.search_runtime.SearchRuntime` of many processes."""

    def __init__(self, search: SearchPlan, weights: Weights | None) -> None:
        raise ConfigError("a search on Ray is not there yet: use --runtime inline")
