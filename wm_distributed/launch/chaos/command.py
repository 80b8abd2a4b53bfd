"""``wm-distributed bench chaos``."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from wm_distributed.config import (
    ActorConfig,
    EvalConfig,
    GatewayConfig,
    LearnerConfig,
    ReplayConfig,
    RunConfig,
    StopConfig,
)
from wm_distributed.errors import WmError
from wm_distributed.launch.bench_command import show
from wm_distributed.launch.chaos.hunt import Hunt
from wm_distributed.launch.chaos.verdict import (
    judge_gateway,
    judge_promises,
    judge_return,
    judge_sequences,
    judge_times,
    read_logs,
)
from wm_distributed.launch.presets import load_preset
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.ranges import Positive, Share
from wm_distributed.testing.counting_family import counting_preset

_OFTEN = 10.0
"""Seconds between snapshots of replay, so that a resume has little to read of its log."""


def hunted_config(preset: str | None) -> RunConfig[Any]:
    """A preset without end, or the run that checks most.

    Raises:
        UnknownNameError: There is no such preset.
    """
    if preset is None:
        return _counting_config()
    config, _ = load_preset(preset)
    return replace(
        config,
        replay=replace(config.replay, snapshot_seconds=_OFTEN),
        learner=replace(config.learner, checkpoint_every_seconds=5.0),
        stop=StopConfig(env_steps=None, wall_seconds=1e6),
    )


def _counting_config() -> RunConfig[Any]:
    """Two ranks, two shards, and an actor on an environment that counts: room for all on two cores.

    Nothing is evicted, so that everything can be found afterwards.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return replace(
        counting_preset(),
        actors=ActorConfig(num_actors=1, envs_per_actor=4, chunk_steps=16),
        replay=ReplayConfig(num_shards=2, capacity_steps=4_000_000, min_size=500, ratio=8.0,
                            snapshot_seconds=_OFTEN),
        learner=LearnerConfig(num_ranks=2, num_threads=1, device="cpu",
                              checkpoint_every_seconds=5.0),
        gateway=GatewayConfig(port=port, max_streams=2),
        eval=EvalConfig(every_env_steps=500, episodes=2, final_episodes=4, envs=2),
        stop=StopConfig(env_steps=None, wall_seconds=1e6),
    )  # fmt: skip


def run_chaos(
    minutes: Positive = 2.0,
    every: Positive = 10.0,
    seed: int = 0,
    stopped: Share = 0.0,
    preset: str | None = None,
    run_dir: Path | None = None,
    json: Path | None = None,
    check: bool = False,
) -> int:
    """Kills the processes of a real run one after another, and tells whether anything was lost.

    Exits with status 1 if a promise is broken.

    Args:
        minutes: How long processes are killed; start and end take another minute.
        every: Seconds from one kill to the next. The driver's takes longer: the run is resumed.
        seed: Of who is killed when.
        stopped: Share of the victims that are stopped (SIGSTOP) instead of killed, as if they hung;
            never the driver.
        preset: The run, with a replay that holds all of it; at the end its agent is evaluated.
            None: a run that checks each sequence that it samples, and into which a simulator
            outside inserts through the gateway.
        run_dir: New directory of the run; none: the next free number, runs/chaos-001.
        json: File for the figures.
        check: Exit with status 1 also if a process was not back in time.
    """
    config = hunted_config(preset)
    directory = RunDir.create(run_dir, "chaos")
    directory.save_config(config)
    console = Console()
    console.print(f"killing a process of {directory.path} every {every:g} s for {minutes:g} min")
    hunt = Hunt(directory, seed, stopped)
    broken = False
    try:
        with hunt.running():
            hunt.for_seconds(60 * minutes, every)
    except WmError as error:
        broken = True
        console.print(f"[red]the run has ended before its time:[/] {error}", highlight=False)
    found = read_logs(directory.path)
    times = judge_times(hunt.kills, found.shard_gigabytes)
    promises = judge_promises(directory, hunt, found)
    if preset is None:
        promises += [judge_gateway(directory), *judge_sequences(directory)]
    else:
        promises.append(judge_return(directory))
    show("chaos", [*times, *promises], json)
    judged = [*promises, *(times if check else [])]
    missed = [result for result in judged if result.passed is False]
    return 1 if broken or missed else 0
