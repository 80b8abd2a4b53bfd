"""Whether the machines of a run can hold its replay once that is full."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from wm_distributed.launch.runtime import ProcessStatus


def memory_warning(processes: Iterable[ProcessStatus]) -> str:
    """What to say of machines whose shards may outgrow them; empty if all can hold theirs.

    A shard takes its rings from the machine step by step, so that one that is too large runs for
    hours before it fails.
    """
    replay: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = {}
    for process in processes:
        replay[process.node] += process.stats.get("replay/allocated_bytes", 0.0)
        known = memory.get(process.node, float("inf"))
        memory[process.node] = process.stats.get("run/machine_bytes", known)
    return "; ".join(
        f"full replay takes {size / 1e9:.1f} GB of {node}, which has {memory[node] / 1e9:.1f} GB: "
        "lower replay.capacity_steps, set replay.capacity_bytes, or spread the shards over more "
        "machines"
        for node, size in replay.items()
        if size > 0.9 * memory[node]
    )
