"""What a hunted run promised, held against what it has left behind."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.gateway.admission import FIRST_ACTOR
from replay_service.segments import Damages
from replay_service.stored import find_shards, stored_chunks
from wm_distributed.launch.bench import BenchResult
from wm_distributed.launch.chaos.driver import LEDGERS, SILENT_SECONDS
from wm_distributed.launch.chaos.hunt import ROLES, STALL_SECONDS, Hunt, Kill
from wm_distributed.launch.chaos.ledger import Entries, key_of, read_ledgers
from wm_distributed.launch.eval_command import evaluate_checkpoint
from wm_distributed.launch.run_dir import RunDir, read_json
from wm_distributed.types import StreamId

BOUNDS = {"actor": 5.0, "shard": 10.0, "learner": 20.0, "driver": 30.0}
"""Seconds until a role should be back; a shard may take one more for each GB of its log."""


@dataclass(frozen=True)
class Found:
    """What the logs of a run's shards hold.

    Attributes:
        chunks: Each chunk, and how often.
        steps: Their steps.
        shard_gigabytes: Size of the largest shard's log.
        newest_version: Highest policy version.
        backwards: Chunks with an older policy than the one before in their stream.
        damages: Places that cannot be read.
    """

    chunks: Entries
    steps: int
    shard_gigabytes: float
    newest_version: int
    backwards: int
    damages: int


def read_logs(run_dir: Path) -> Found:
    """Reads everything that is stored."""
    damages, chunks, sizes = Damages(), Entries(), []
    streams: defaultdict[StreamId, list[tuple[int, int]]] = defaultdict(list)
    for directory in find_shards(run_dir):
        sizes.append(sum(path.stat().st_size for path in directory.iterdir()))
        for chunk in stored_chunks(directory, damages):
            chunks[key_of(chunk)] += 1
            streams[chunk.stream].append((chunk.sequence_number, chunk.policy_version))
    lines = [[version for _, version in sorted(stream)] for stream in streams.values()]
    return Found(
        chunks=chunks,
        steps=sum(count * steps for (_, _, steps), count in chunks.items()),
        shard_gigabytes=max(sizes) / 1e9,
        newest_version=max((max(line) for line in lines), default=0),
        backwards=sum(b < a for line in lines for a, b in itertools.pairwise(line)),
        damages=damages.places,
    )


def judge_times(kills: Sequence[Kill], shard_gigabytes: float) -> list[BenchResult]:
    """How soon each role was back, the worst of its deaths against its bound.

    One that was stopped has to be noticed first, by its silence.
    """
    results = []
    for role, stopped in itertools.product(ROLES, (False, True)):
        victims = [kill for kill in kills if (kill.role, kill.stopped) == (role, stopped)]
        seconds = [kill.back_seconds or 0.0 for kill in victims]
        if not seconds:
            continue
        bound = BOUNDS.get(role)
        if bound is not None:
            bound += shard_gigabytes if role == "shard" else 0.0
            bound += SILENT_SECONDS if stopped else 0.0
        how = "stopped" if stopped else "killed"
        results.append(
            BenchResult(
                name=f"{role}, {how} {len(seconds)} times: back at the latest after",
                value=max(seconds),
                unit="s",
                reference=bound,
                reference_name="aim",
                at_most=None if bound is None else 1.0,
                note=f"median {statistics.median(seconds):.1f} s",
            )
        )
    return results


def judge_promises(run_dir: RunDir, hunt: Hunt, found: Found) -> list[BenchResult]:
    """What every run promises, and what came of it."""
    return [
        *judge_ledger(read_ledgers(run_dir.path / LEDGERS), found),
        *_judge_counts(run_dir, found),
        _none("deaths that nobody asked for", hunt.unasked.total(), _listed(hunt.unasked)),
        BenchResult(
            name="longest time without a step",
            value=hunt.longest_stall,
            unit="s",
            at_most=STALL_SECONDS,
        ),
    ]


def judge_ledger(told: Entries, found: Found) -> list[BenchResult]:
    """Whether all that senders were told is stored can be found, once and whole.

    What comes through the gateway is told twice: to it, and by it to the simulator outside.
    """
    told = Counter(told.keys())
    lost = told - found.chunks
    repeated = Counter({key: count - 1 for key, count in found.chunks.items() if count > 1})
    return [
        BenchResult(name="steps acknowledged", value=_steps(told), unit="steps", at_least=1.0),
        _none("of these, lost", _steps(lost), "a process's end loses nothing: the window is 0"),
        _none("stored twice", _steps(repeated)),
        _none("damaged places in the logs", found.damages),
    ]


def judge_gateway(run_dir: RunDir) -> BenchResult:
    """Whether the simulator outside was told that anything is stored."""
    told = read_ledgers(run_dir.path / LEDGERS)
    outside = Counter(key for key in told if key[0].actor >= FIRST_ACTOR)
    name = "steps acknowledged by the gateway"
    return BenchResult(name=name, value=_steps(outside), unit="steps", at_least=1.0)


def judge_sequences(run_dir: RunDir) -> list[BenchResult]:
    """Whether every sequence was right.

    The counting family's learner checks them, and ends where one is wrong; the driver's log tells.
    """
    config, _ = run_dir.load_config()
    checked = _counts(run_dir)["train_steps"] * config.model.data.batch_size
    crossings = run_dir.log.read_text().count("AssertionError")
    return [
        BenchResult(name="sequences checked", value=checked, unit="sequences", at_least=1.0),
        _none("of these, across a gap or otherwise wrong", crossings),
    ]


def judge_return(run_dir: RunDir) -> BenchResult:
    """What the agent of the best evaluation has learned, in spite of all."""
    final = evaluate_checkpoint(run_dir, None, "best")
    agent, random = final.agent, final.random
    return BenchResult(
        name=f"mean return over {len(agent.results)} episodes",
        value=agent.return_mean,
        unit=f"± {agent.return_std:.1f}",
        reference=random.return_mean,
        reference_name="the random policy's",
        note=f"after {agent.train_steps:,} train steps; to be held against undisturbed runs",
    )


def _judge_counts(run_dir: RunDir, found: Found) -> list[BenchResult]:
    """Whether the counts of the last checkpoint are those of what is stored.

    A death may leave steps counted that were never stored, and the limiter's may leave some
    uncounted: each at most what comes within a second or lies in its calls.
    """
    config, _ = run_dir.load_config()
    counts = _counts(run_dir)
    ratio = counts["trained_steps"] / counts["counted_env_steps"]
    beyond = max(0, found.newest_version - counts["version"])
    return [
        _near("environment steps counted", counts["env_steps"], found.steps, "stored"),
        _near("trained steps for each", ratio, config.replay.ratio, "aimed"),
        _none("policy versions stored beyond the newest", beyond),
        _none("policy versions that go back within a stream", found.backwards),
    ]


def _counts(run_dir: RunDir) -> dict[str, int]:
    newest = max(run_dir.checkpoints.glob("step-*.json"))
    counts: dict[str, int] = read_json(newest)["counters"]
    return counts


def _steps(entries: Entries) -> int:
    return sum(count * steps for (_, _, steps), count in entries.items())


def _near(name: str, value: float, reference: float | None, reference_name: str) -> BenchResult:
    return BenchResult(
        name=name,
        value=value,
        unit="steps",
        reference=reference,
        reference_name=reference_name,
        at_least=0.95,
        at_most=1.05,
    )


def _none(name: str, value: float, note: str = "") -> BenchResult:
    return BenchResult(name=name, value=value, unit="", at_most=0.0, note=note)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {role}" for role, count in counts.items())
