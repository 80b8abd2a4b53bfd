"""Evaluation of a policy as the run's configuration says, in whatever process calls it."""

from __future__ import annotations

from contextlib import closing

from actors.evaluation import evaluate, record_episode
from actors.random_policy import RandomPolicy
from wm_distributed.api import Policy
from wm_distributed.launch.plan import Plan
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.seeding import evaluation_seed
from wm_distributed.types import Array, EpisodeResult, Weights

_MAX_VIDEO_STEPS = 1000
FINAL = 0
"""Number of the final evaluation; those during training count from 1."""


def evaluate_agent(
    plan: Plan, weights: Weights, number: int, episodes: int, *, env_steps: int, video: bool = False
) -> Evaluation:
    """Plays whole episodes with published weights.

    Args:
        plan: The run.
        weights: What to evaluate.
        number: Number of the evaluation in the run, which gives the seeds.
        episodes: How many.
        env_steps: Environment steps of training, for the result.
        video: Whether to record one more episode, up to 1000 decisions.

    Raises:
        EnvError: An environment failed.
    """
    seed = evaluation_seed(plan.config.seed, number)
    policy = plan.build_policy(seed)
    policy.load_weights(weights)
    results = _play(plan, policy, seed, episodes)
    frames, recorded = _record(plan, policy, seed) if video else (None, None)
    return Evaluation(
        env_steps=env_steps,
        train_steps=weights.train_steps,
        version=weights.version,
        results=results,
        frames=frames,
        recorded=recorded,
    )


def evaluate_random(plan: Plan, number: int, episodes: int) -> Evaluation:
    """Plays whole episodes at random, on the same seeds as the agent.

    Raises:
        EnvError: An environment failed.
    """
    seed = evaluation_seed(plan.config.seed, number)
    policy = RandomPolicy(plan.spaces.action, seed)
    results = _play(plan, policy, seed, episodes)
    return Evaluation(env_steps=0, train_steps=0, version=-1, results=results)


def evaluation_stats(evaluation: Evaluation) -> dict[str, float]:
    """The evaluation's metrics."""
    return {
        "eval/return_mean": evaluation.return_mean,
        "eval/return_std": evaluation.return_std,
        "eval/length_mean": evaluation.length_mean,
        "eval/episodes": float(len(evaluation.results)),
        "eval/version": float(evaluation.version),
    }


def _play(plan: Plan, policy: Policy, seed: int, episodes: int) -> tuple[EpisodeResult, ...]:
    num_envs = min(plan.config.eval.envs, episodes)
    with closing(plan.open_env(num_envs, seed)) as env:
        return tuple(evaluate(env, policy, episodes))


def _record(plan: Plan, policy: Policy, seed: int) -> tuple[Array | None, EpisodeResult]:
    with closing(plan.open_env(1, seed, render=True)) as env:
        return record_episode(env, policy, _MAX_VIDEO_STEPS)
