"""``wm-distributed eval``: a checkpoint of a run beside the random policy."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from wm_distributed.config import RunConfig
from wm_distributed.launch.presets import is_search
from wm_distributed.launch.report import print_result, print_when
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import FinalEvaluation, Which, make_runtime
from wm_distributed.launch.status_file import only_driver


def evaluate_run(
    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")],
    /,
    episodes: int | None = None,
    checkpoint: Which = "best",
    video: bool = False,
) -> int:
    """Evaluates a checkpoint of a run on seeds that training never uses.

    Args:
        run_dir: Directory of the run.
        episodes: Episodes of the agent and of the random policy; none: as at the end of the run.
        checkpoint: The one of the best evaluation during training, or the newest.
        video: Save the first episode as eval.mp4 in the run directory.
    """
    directory = RunDir.open(run_dir)
    final = evaluate_checkpoint(directory, episodes, checkpoint)
    config, _ = directory.load_config()
    console = Console()
    print_when(console, config, final.agent)
    print_result(console, {"agent": final.agent, "random policy": final.random})
    if video:
        from wm_distributed.launch.videos import save_agent_video

        if save_agent_video(directory.eval_video, final.agent):
            console.print(str(directory.eval_video), highlight=False)
        else:
            reason = final.agent.no_video or f"{config.env.id} cannot draw itself"
            console.print(f"no video: {reason}", highlight=False)
    return 0


def evaluate_checkpoint(
    directory: RunDir, episodes: int | None, checkpoint: Which
) -> FinalEvaluation:
    """What :func:`evaluate_run` shows."""
    saved, _ = directory.load_config()
    config = _for_evaluation(saved, episodes)
    # What a resumed training run must be warned of does not concern an evaluation.
    logging.getLogger("wm_distributed.launch.inline_runtime").setLevel(logging.ERROR)
    # The results of a running search would be told to two servers.
    with only_driver(directory) if is_search(saved) else nullcontext():
        runtime = make_runtime(config, directory.path, resume=True, trains=False)
        try:
            runtime.start()
            return runtime.evaluate_final(config.eval.final_episodes, checkpoint)
        finally:
            runtime.stop(checkpoint=False)


def _for_evaluation(config: RunConfig[Any], episodes: int | None) -> RunConfig[Any]:
    """The configuration for this process alone, without what only training needs."""
    if episodes is None:
        episodes = config.eval.final_episodes
    return replace(
        config,
        eval=replace(config.eval, final_episodes=episodes),
        actors=replace(config.actors, num_actors=1, envs_per_actor=1),
        gateway=replace(config.gateway, port=None),
        # The log is held by the shards of a running run.
        replay=replace(config.replay, durable=False, offline=None),
        learner=replace(
            config.learner,
            num_ranks=1,
            groups=(),
            sharding="none",
            device="cpu",
            compile=False,
            cuda_graphs=False,
        ),
        runtime=replace(config.runtime, kind="inline", ray_address=None, metrics_port=None),
    )
