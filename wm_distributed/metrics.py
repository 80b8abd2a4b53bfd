"""The one table of metric names. A role reports plain dictionaries under these names.

Losses, world-model health figures and where a policy's time goes are reported under ``train/``,
``report/`` and ``policy/`` with names of the family's choosing; everything that the system itself
measures stands here, so that dashboards and alerts are made from the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FREE_PREFIXES = ("train/", "report/", "policy/")


@dataclass(frozen=True)
class Metric:
    """A metric's kind, how the values of several processes become one, and what it tells."""

    kind: Literal["counter", "gauge"]
    across: Literal["sum", "mean", "max"]
    help: str


METRICS: dict[str, Metric] = {
    "actor/env_steps": Metric("counter", "sum", "Steps stored by actors."),
    "actor/episodes": Metric("counter", "sum", "Episodes finished in training."),
    "actor/return_mean": Metric("gauge", "mean", "Mean return of the last training episodes."),
    "actor/length_mean": Metric("gauge", "mean", "Mean length of them, in decisions."),
    "actor/env_steps_per_second": Metric("gauge", "sum", "Environment steps a second."),
    "actor/env_share": Metric("gauge", "mean", "Share of time in the environments."),
    "actor/inference_share": Metric("gauge", "mean", "Share of time in the policy."),
    "actor/insert_share": Metric("gauge", "mean", "Share of time sending to replay."),
    "actor/wait_share": Metric("gauge", "mean", "Share of time held by the replay ratio."),
    "actor/policy_version": Metric("gauge", "mean", "Version of the weights acted with."),
    "actor/fetch_seconds": Metric("gauge", "max", "Duration of the last fetch of weights."),
    "actor/env_restarts": Metric("counter", "sum", "Environments replaced after a failure."),
    "gateway/clients": Metric("gauge", "sum", "Clients connected."),
    "gateway/streams": Metric("gauge", "sum", "Simulators of these."),
    "gateway/welcomed": Metric("counter", "sum", "Clients let in."),
    "gateway/refused": Metric("counter", "sum", "Connections not let in: token, version, room."),
    "gateway/broken": Metric("counter", "sum", "Clients cut off: bad, oversized or late frame."),
    "gateway/frames": Metric("counter", "sum", "Messages of clients."),
    "gateway/bytes_in": Metric("counter", "sum", "Bytes of these."),
    "gateway/env_steps": Metric("counter", "sum", "Steps stored for clients."),
    "gateway/env_steps_per_second": Metric("gauge", "sum", "Steps stored a second."),
    "gateway/episodes": Metric("counter", "sum", "Episodes that acting clients finished."),
    "gateway/return_mean": Metric("gauge", "mean", "Mean return of the last ones."),
    "gateway/inference_share": Metric("gauge", "mean", "Share of time in the policy."),
    "gateway/insert_share": Metric("gauge", "mean", "Share of time sending to replay."),
    "gateway/wait_share": Metric("gauge", "mean", "Share of time held by the replay ratio."),
    "gateway/policy_version": Metric("gauge", "mean", "Version of the weights acted with."),
    "replay/steps": Metric("gauge", "sum", "Steps held."),
    "replay/capacity_steps": Metric("gauge", "sum", "Steps that fit."),
    "replay/allocated_bytes": Metric("gauge", "sum", "Memory of the rings and indices."),
    "replay/inserted_steps": Metric("counter", "sum", "Steps inserted."),
    "replay/sampled_steps": Metric("counter", "sum", "Steps sampled, context included."),
    "replay/insert_bytes": Metric("counter", "sum", "Bytes inserted."),
    "replay/sample_bytes": Metric("counter", "sum", "Bytes sampled."),
    "replay/insert_p99_seconds": Metric("gauge", "max", "99th percentile of an insert."),
    "replay/sample_p99_seconds": Metric("gauge", "max", "99th percentile of a sample."),
    "replay/updated_steps": Metric("counter", "sum", "Steps written back."),
    "replay/stale_updates": Metric("counter", "sum", "Write-backs dropped: overwritten slot."),
    "replay/duplicate_chunks": Metric("counter", "sum", "Chunks received twice, dropped."),
    "replay/stream_gaps": Metric("counter", "sum", "Streams sealed because a chunk is missing."),
    "replay/sealed_streams": Metric("counter", "sum", "Ends of streams marked as truncated."),
    "replay/recovered_steps": Metric("gauge", "sum", "Steps that came back from the log."),
    "replay/recovery_seconds": Metric("gauge", "max", "Time that this took."),
    "replay/log_damages": Metric("gauge", "sum", "Damaged places in log and snapshot then."),
    "replay/log_bytes": Metric("gauge", "sum", "Disk that the log takes."),
    "replay/loss_window_steps": Metric("gauge", "sum", "Steps that a machine's end would cost."),
    "replay/loss_window_seconds": Metric("gauge", "max", "Age of the oldest of them."),
    "replay/unlogged_steps": Metric("counter", "sum", "Steps that the disk did not take."),
    "replay/snapshot_seconds": Metric("gauge", "max", "Duration of the last snapshot."),
    "replay/snapshot_bytes": Metric("gauge", "sum", "Size of the last snapshot."),
    "limiter/env_steps": Metric("counter", "max", "Environment steps counted for the ratio."),
    "limiter/trained_steps": Metric("counter", "max", "Trained steps counted for the ratio."),
    "limiter/ratio_aimed": Metric("gauge", "max", "Aimed trained steps per environment step."),
    "limiter/ratio": Metric("gauge", "max", "Achieved, since training began."),
    "limiter/insert_wait_seconds": Metric("counter", "max", "Time that actors were held."),
    "limiter/sample_wait_seconds": Metric("counter", "max", "Time that learners were held."),
    "learner/train_steps": Metric("counter", "max", "Train steps."),
    "learner/train_steps_per_second": Metric("gauge", "mean", "Train steps a second."),
    "learner/wait_share": Metric("gauge", "mean", "Share of time without a batch."),
    "learner/ratio_wait_seconds": Metric("counter", "max", "Batches held by the ratio."),
    "learner/data_wait_seconds": Metric("counter", "max", "Batches waited for at the shards."),
    "learner/policy_lag_mean": Metric("gauge", "mean", "Versions behind, of sampled steps."),
    "learner/policy_lag_p95": Metric("gauge", "max", "95th percentile of it, over the steps."),
    "learner/policy_lag_max": Metric("gauge", "max", "Of the oldest of them."),
    "learner/latent_age_mean": Metric("gauge", "mean", "Versions since latents were stored."),
    "learner/latent_age_p95": Metric("gauge", "max", "95th percentile of it, over the steps."),
    "learner/latent_age_max": Metric("gauge", "max", "Of the oldest of them."),
    "learner/stale_sequences": Metric("counter", "sum", "Sampled sequences beyond a limit."),
    "learner/version": Metric("gauge", "max", "Newest published version."),
    "learner/publish_seconds": Metric("gauge", "max", "Duration of the last publication."),
    "learner/publish_bytes": Metric("gauge", "max", "Size of the last publication."),
    "learner/checkpoint_seconds": Metric("gauge", "max", "Duration of the last checkpoint."),
    "server/version": Metric("gauge", "max", "Version that the parameter server holds."),
    "server/publications": Metric("counter", "max", "Versions received."),
    "server/fetches": Metric("counter", "max", "Fetches answered with weights."),
    "server/bytes_out": Metric("counter", "max", "Bytes of weights given out."),
    "eval/return_mean": Metric("gauge", "max", "Mean return of the last evaluation."),
    "eval/return_std": Metric("gauge", "max", "Standard deviation of it, over episodes."),
    "eval/length_mean": Metric("gauge", "max", "Mean length of it, in decisions."),
    "eval/episodes": Metric("gauge", "max", "Episodes of it."),
    "eval/version": Metric("gauge", "max", "Version that was evaluated."),
    "search/generation": Metric("gauge", "max", "Generations of the farthest island."),
    "search/evaluations": Metric("counter", "max", "Results taken, held-out ones included."),
    "search/evaluations_per_second": Metric("gauge", "max", "Results taken a second."),
    "search/decisions": Metric("counter", "max", "Decisions made in them."),
    "search/return_mean": Metric("gauge", "max", "Mean return of the last generation."),
    "search/return_max": Metric("gauge", "max", "Best candidate of it; a lucky one, no result."),
    "search/return_std": Metric("gauge", "max", "Standard deviation of it, over candidates."),
    "search/sigma": Metric("gauge", "max", "Step size of the last generation."),
    "search/candidate_episodes": Metric("gauge", "max", "Episodes of each of its candidates."),
    "search/reliability": Metric("gauge", "max", "Share of their variance that is no noise."),
    "search/best_mean": Metric("gauge", "max", "Best mean return of a mean solution, held out."),
    "search/best_std": Metric("gauge", "max", "Standard deviation of it, over episodes."),
    "search/best_episodes": Metric("gauge", "max", "Episodes of it."),
    "search/open_tasks": Metric("gauge", "max", "Tasks without a result."),
    "search/leased_tasks": Metric("gauge", "max", "Of these, tasks that an evaluator has."),
    "search/reissued_tasks": Metric("counter", "max", "Lost or late tasks given out again."),
    "search/late_results": Metric("counter", "max", "Results after their generation; dropped."),
    "search/repeated_results": Metric("counter", "max", "Results that were there; dropped."),
    "search/conflicting_results": Metric("counter", "max", "Of these, with another return."),
    "search/failed_episodes": Metric("counter", "max", "Returns not finite; ranked worst."),
    "search/quorum_tells": Metric("counter", "max", "Generations ended without all results."),
    "search/missing_candidates": Metric("counter", "max", "Candidates left out by these."),
    "search/restarts": Metric("counter", "max", "Runs begun after an island had converged."),
    "evaluator/decisions_per_second": Metric("gauge", "sum", "Decisions a second."),
    "evaluator/env_share": Metric("gauge", "mean", "Share of time in the environments."),
    "evaluator/inference_share": Metric("gauge", "mean", "Share of time in the policy."),
    "evaluator/wait_share": Metric("gauge", "mean", "Share of time waiting for tasks."),
    "run/recoveries": Metric("counter", "sum", "Processes restarted after a death."),
    "run/recovery_seconds": Metric("gauge", "max", "Last recovery of a role, until ready again."),
    "run/cpu_seconds": Metric("counter", "sum", "CPU time used, by role."),
    "run/rss_bytes": Metric("gauge", "sum", "Resident memory, by role."),
    "run/machine_bytes": Metric(
        "gauge", "max", "Memory of a process's machine, or its limit there."
    ),
}


def free_name(name: str) -> str:
    """The name under which a figure of a report is recorded and served."""
    return name if name.startswith(FREE_PREFIXES) else f"report/{name}"
