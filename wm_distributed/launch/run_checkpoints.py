"""Where a run's checkpoints are, and which of them fit its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from wm_distributed.api import Trainable
from wm_distributed.fit import misfits, shapes
from wm_distributed.launch.config_json import changed_flags
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.run_dir import RunDir

if TYPE_CHECKING:
    from wm_distributed.checkpoint import Checkpointer


def open_checkpoints(
    plan: Plan,
    trainable: Trainable,
    read_counts: Callable[[], Mapping[str, int]],
    group: int | None = None,
) -> Checkpointer:
    """The run's checkpoints, which also keep the counts of the replay ratio.

    Args:
        plan: The run.
        trainable: What is saved and loaded.
        read_counts: Gives the counts.
        group: Learner group whose checkpoints are meant; those of the acting one are the run's.
    """
    from wm_distributed.checkpoint import fingerprint
    from wm_distributed.launch.counted_checkpoints import CountedCheckpointer

    own = shapes(trainable.state_dict())
    mine = "" if group in (None, plan.acting_group) else f"-group-{group}"
    return CountedCheckpointer(
        plan.run_dir / f"checkpoints{mine}",
        read_counts,
        family=plan.family.name,
        preset=plan.config.preset,
        fingerprint=fingerprint(plan.config.env.id, plan.spaces, own),
        misfits=lambda state: _misfits(plan, state.get("trainable"), own),
        keep=plan.config.learner.keep_checkpoints,
    )


def _misfits(plan: Plan, state: object, own: object) -> str:
    """What of a saved state does not fit, where, and which flags may be the cause."""
    saved, _ = RunDir.open(plan.run_dir).load_config()
    changed = changed_flags(saved, plan.config)
    cause = f" ({', '.join(changed)})" if changed else ""
    return f"in environment {plan.config.env.id!r}{cause}, {misfits(state, own)}"
