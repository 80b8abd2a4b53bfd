r"""Where IRIS loses on toy/catch: each part measured alone, in one process and one thread.

Collects with the random policy, trains tokenizer, world model and actor-critic one after the other,
and prints for each what it can do; then trains the same actor-critic on the real game, which is
what a perfect world model would give (the model-free control)::

    python benchmarks/iris_catch.py --tokenizer 1600 --world-model 3000 --actor-critic 300

or looks at what a run has learned::

    python benchmarks/iris_catch.py --load runs/…/checkpoints/….pt --tokenizer 0 --world-model 0 \
        --actor-critic 0

With ``--refills 1 3`` it compares windows that are filled again with so many blocks.

What is said of tokenizer and world model is of steps that they were not trained on. Times are CPU
seconds of this process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wm_distributed.api import DataSpec, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.config import EnvConfig
from wm_distributed.envs import make_vector_env
from wm_distributed.families.iris import FAMILY
from wm_distributed.families.iris.actor_critic import ActorState, Trajectory, actor_critic_losses
from wm_distributed.families.iris.config import (
    ACTOR_CRITIC,
    TOKENIZER,
    WORLD_MODEL,
    IrisConfig,
    adam,
)
from wm_distributed.families.iris.imagination import Imagination
from wm_distributed.families.iris.model import IrisModel
from wm_distributed.families.iris.policy import IrisPolicy
from wm_distributed.families.iris.presets import catch
from wm_distributed.families.iris.report import open_loop
from wm_distributed.families.iris.steps import Transitions, psnr_db, to_pixels, transitions
from wm_distributed.families.iris.trainable import IrisTrainable
from wm_distributed.nets.optim import FlatOptimizer
from wm_distributed.ops.categorical import sample_index
from wm_distributed.types import EnvStep, TensorBatch, Weights

ENV = EnvConfig(id="toy/catch", image_size=32)
Act = Callable[[EnvStep], Any]


def collect(num_envs: int, num_steps: int, act: Act, seed: int) -> dict[str, np.ndarray]:
    """Columns ``(E, T, …)`` of E streams."""
    env = make_vector_env(ENV, num_envs, seed)
    step, rows = env.reset(), []
    for _ in range(num_steps):
        action = np.where(step.is_last, 0, act(step)).astype(np.int32)
        rows.append({
            "obs/image": step.obs["image"], "action": action, "reward": step.reward,
            "is_first": step.is_first, "is_last": step.is_last, "is_terminal": step.is_terminal,
        })  # fmt: skip
        step = env.step(action)
    return {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}


class Data:
    """Uniformly sampled sequences."""

    def __init__(self, columns: Mapping[str, np.ndarray], seed: int) -> None:
        self.columns, self.rng = columns, np.random.default_rng(seed)

    def episode_starts(self, frames: int, num_episodes: int) -> TensorBatch:
        """The first frames of episodes."""
        streams, steps = np.nonzero(self.columns["is_first"][:, :-frames])
        chosen = self.rng.permutation(len(streams))[:num_episodes]
        rows = steps[chosen, None] + np.arange(frames)
        return TensorBatch(
            {n: torch.from_numpy(c[streams[chosen, None], rows]) for n, c in self.columns.items()}
        )

    def batch(self, spec: DataSpec) -> TensorBatch:
        streams, steps = self.columns["reward"].shape
        length = spec.context + spec.length
        stream = self.rng.integers(streams, size=(spec.batch_size, 1))
        rows = self.rng.integers(steps - length + 1, size=(spec.batch_size, 1)) + np.arange(length)
        columns = {name: torch.from_numpy(c[stream, rows]) for name, c in self.columns.items()}
        return TensorBatch(columns, spec.context)


def evaluate(config: IrisConfig, trainable: IrisTrainable, episodes: int) -> float:
    """Mean return over new real episodes."""
    env = make_vector_env(ENV, 50, 10_000)
    policy = IrisPolicy(config, env.spaces, 0)
    policy.load_weights(Weights(1, trainable.policy_weights()))
    step, state, returns = env.reset(), policy.initial_state(50), []
    while len(returns) < episodes:
        action, state, _ = policy.act(state, step, "eval")
        step = env.step(action)
        returns += step.reward[step.is_last].tolist()
    return float(np.mean(returns))


def spec_of(trainable: IrisTrainable, phase: str) -> DataSpec:
    """The batches of a phase."""
    specs = {p.name: p.data for p in FAMILY.phases(trainable.config)}
    return specs[phase]


def train(
    trainable: IrisTrainable,
    data: Data,
    phase: str,
    steps: int,
    every: int,
    show: Callable[[], str],
) -> None:
    """Trains one phase, and every so often prints mean metrics and what ``show`` says.

    Without a step, that is said of what was loaded.
    """
    if not steps:
        print(f"{phase} as loaded {show()}", flush=True)
    spec = spec_of(trainable, phase)
    began = time.process_time()
    window: list[Mapping[str, Any]] = []
    for step in range(1, steps + 1):
        _, output = trainable.train_step(phase, None, data.batch(spec))
        window.append(output.metrics)
        if step % every == 0 or step == steps:
            means = {k: np.mean([float(m[k]) for m in window]) for k in window[0]}
            shown = {k.removeprefix(phase + "_"): f"{v:.3g}" for k, v in means.items()}
            line = " ".join(f"{k} {v}" for k, v in shown.items() if "norm" not in k)
            seconds = time.process_time() - began
            print(f"{phase} {step} cpu {seconds:.0f}s {line} {show()}", flush=True)
            window.clear()


def find_objects(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of ball ``(N, 2)`` and paddle ``(N,)`` in frames ``(N, 3, 32, 32)``, in pixels.

    The ball alone is yellow and the paddle alone is blue; each is where most of its colour is.
    """
    red, blue = frames[:, 0], frames[:, 2]
    ball = (red - 0.5).clamp_min(0.0)
    paddle = (blue - red - 0.3).clamp_min(0.0)[:, -2:]
    axis = torch.arange(32.0)
    total = ball.sum((1, 2)).clamp_min(1e-6)
    centre = torch.stack([(ball.sum(2) * axis).sum(1), (ball.sum(1) * axis).sum(1)], 1)
    place = (paddle.sum(1) * axis).sum(1) / paddle.sum((1, 2)).clamp_min(1e-6)
    return centre / total[:, None], place


def tokenizer_fidelity(trainable: IrisTrainable, columns: Mapping[str, np.ndarray]) -> str:
    """How far ball and paddle are moved by going through the tokens."""
    frames = to_pixels(torch.from_numpy(columns["obs/image"][:, :60].reshape(-1, 32, 32, 3)))
    tokenizer = trainable.model.acting.tokenizer
    decoded = tokenizer.decode(tokenizer.encode(frames))
    (ball, paddle), (ball2, paddle2) = find_objects(frames), find_objects(decoded)
    off = (ball - ball2).abs().amax(1)
    low = ball[:, 0] >= 24  # in the patches that also hold the paddle
    away = (paddle - paddle2).abs()
    return (
        f" | ball off by >0.5 px {(off > 0.5).float().mean():.3f}, near the paddle "
        f"{(off[low] > 0.5).float().mean():.3f}; paddle {(away > 0.5).float().mean():.3f}, near "
        f"the ball {(away[low] > 0.5).float().mean():.3f}"
    )


def show_report(trainable: IrisTrainable, data: Data, phase: str) -> str:
    """The scalars of a phase's report, on unrelated frames or sequences that are long enough."""
    size, length = (256, 1) if phase == TOKENIZER else (64, 11)
    spec = replace(spec_of(trainable, phase), batch_size=size, length=length)
    scalars = trainable.report(phase, data.batch(spec)).scalars
    return "| " + " ".join(f"{k.removeprefix(phase + '_')} {v:.4g}" for k, v in scalars.items())


def outcome_accuracy(trainable: IrisTrainable, data: Data) -> str:
    """Of the steps that end an episode: how often reward and end are predicted."""
    batch = data.batch(replace(spec_of(trainable, WORLD_MODEL), batch_size=128))
    steps, model = transitions(batch), trainable.model
    tokens = model.acting.tokenizer.encode(to_pixels(batch.obs()["image"]))
    with torch.no_grad():
        out = model.world_model(tokens[:, :-1], steps.action, steps.segment)
        reward_logits, end_logits = model.world_model.outcomes(out)
    reward, end = reward_logits.argmax(-1), end_logits > 0
    steps = Transitions(*(column[:, : end.shape[1]] for column in steps))
    last = (steps.end > 0) & steps.valid
    other = ~last & steps.valid
    return (
        f" | at ends: reward right {(reward == steps.reward_class)[last].float().mean():.3f}, end "
        f"seen {end[last].float().mean():.3f}, false ends {end[other].float().mean():.4f}"
    )


def imagination_rate(model: IrisModel, batch: TensorBatch, seen: int) -> float:
    """Imagined frames a CPU second, without the decoder, over 60 steps."""
    columns, steps = batch.columns, 60
    tokens = model.acting.tokenizer.encode(to_pixels(columns["obs/image"][:, :seen]))
    actions = columns["action"].long()
    began = time.process_time()
    imagination = Imagination(
        model.world_model, tokens, actions[:, : seen - 1], columns["is_first"][:, :seen]
    )
    for t in range(steps):
        imagination.step(actions[:, t % seen])
    return len(tokens) * steps / (time.process_time() - began)


def compare_refills(trainable: IrisTrainable, data: Data, refills: Sequence[int]) -> None:
    """Prints how good and how fast imagination is with each number of blocks to fill windows with.

    The first frames of the same episodes are known, half a window, of which the first filling takes
    the newest. Rates are medians of three, in turn.
    """
    ahead = (1, 4, 8, 12)  # an episode has 15 frames
    model, seen = trainable.model, trainable.config.world_model.blocks // 2
    batch, world = data.episode_starts(seen + max(ahead), 256), model.world_model
    frames, actions = to_pixels(batch.columns["obs/image"]), batch.columns["action"].long()
    tokens, own = model.acting.tokenizer.encode(frames), world.config
    rates: list[list[float]] = [[] for _ in refills]
    for _ in range(3):
        for blocks, found in zip(refills, rates, strict=True):
            world.config = replace(own, refill_blocks=blocks)
            found.append(imagination_rate(model, batch, seen))
    for blocks, found in zip(refills, rates, strict=True):
        world.config = replace(own, refill_blocks=blocks)
        imagined = open_loop(model, tokens, batch.columns["is_first"], actions, seen)
        errors = (psnr_db(imagined[:, h - 1], frames[:, seen + h - 1]) for h in ahead)
        shown = ", ".join(f"{h}: {error:.1f}" for h, error in zip(ahead, errors, strict=True))
        print(
            f"refill of {blocks}: {np.median(found):.0f} imagined frames a CPU second; decibels by "
            f"steps ahead {shown}",
            flush=True,
        )
    world.config = own


def imagined_return(
    trainable: IrisTrainable, data: Data, choose: Callable[[Tensor], Tensor]
) -> float:
    """What imagination pays, from the third frame of episodes on, for choosing by what is seen.

    Args:
        trainable: Whose imagination it is.
        data: Where the episodes are from.
        choose: Actions ``(N,)`` for frames ``(N, 3, 32, 32)``, the episodes' first one first.
    """
    model, batch = trainable.model, data.episode_starts(3, 256)
    tokens = model.acting.tokenizer.encode(to_pixels(batch.obs()["image"]))
    imagination = Imagination(
        model.world_model, tokens, batch.columns["action"][:, :-1].long(), batch.columns["is_first"]
    )
    for t in range(tokens.shape[1] - 1):
        choose(model.acting.tokenizer.decode(tokens[:, t]))
    earned = torch.zeros(len(tokens))
    alive = torch.ones_like(earned, dtype=torch.bool)
    for _ in range(16):
        action = choose(model.acting.tokenizer.decode(imagination.tokens))
        prediction = imagination.step(action)
        earned += alive * prediction.expected_reward()
        alive &= prediction.end < 0.0
    return float(earned.mean())


def follow_the_ball(frames: Tensor) -> Tensor:
    """Moves the paddle under the ball, for which the real game pays 1."""
    ball, paddle = find_objects(frames)
    ahead = ball[:, 1] - paddle
    return (ahead > 1.0).long() - (ahead < -1.0).long() + 1


def actor_of(config: IrisConfig, trainable: IrisTrainable) -> Callable[[Tensor], Tensor]:
    """The trained actor, as it plays in evaluation, from an episode's beginning on."""
    actor = trainable.model.acting.actor
    state: list[ActorState] = []

    @torch.no_grad()
    def choose(frames: Tensor) -> Tensor:
        before = state.pop() if state else actor.initial_state(len(frames))
        state.append(actor.remember(actor.features(frames), before))
        logits = actor.policy(state[0].hidden) / config.actor_critic.eval_temperature
        return sample_index(logits, None)

    return choose


def model_free(config: IrisConfig, trainable: IrisTrainable, updates: int) -> None:
    """The same actor, losses and horizon on the real game; the actor sees through the tokenizer."""
    model, actor = trainable.model, trainable.model.acting.actor
    parameters = [*actor.parameters(), *model.value.parameters()]
    optimizer = FlatOptimizer(parameters, config.actor_critic.optim, Collective())
    env = make_vector_env(ENV, config.actor_critic.batch_size, 77)
    began = time.process_time()
    for update in range(1, updates + 1):
        step, state, rows = env.reset(), actor.initial_state(env.num_envs), []
        for _ in range(config.actor_critic.horizon):
            pixels = to_pixels(torch.from_numpy(step.obs["image"]))
            if actor.standardize is not None:
                actor.standardize.follow(pixels, Collective())
            tokens = model.acting.tokenizer.encode(pixels)
            state = actor.remember(actor.features(model.acting.tokenizer.decode(tokens)), state)
            logits = actor.policy(state.hidden)
            action = sample_index(logits.detach(), None)
            value = model.value(state.hidden).squeeze(-1)
            reward, end = torch.from_numpy(step.reward), torch.from_numpy(step.is_last)
            rows.append((logits, action, value, reward, end, tokens))
            step = env.step(action.numpy())
        trajectory = Trajectory(*(torch.stack(part, 1) for part in zip(*rows, strict=True)))
        losses, figures = actor_critic_losses(config.actor_critic, trajectory)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        if update % 50 == 0:
            print(
                f"model-free {update} cpu {time.process_time() - began:.0f}s "
                f"return {float(figures['imagined_return']):.2f} "
                f"eval {evaluate(config, trainable, 200):.3f}",
                flush=True,
            )


def main() -> None:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env-steps", type=int, default=20_000)
    parser.add_argument("--tokenizer", type=int, default=600)
    parser.add_argument("--world-model", type=int, default=800)
    parser.add_argument("--actor-critic", type=int, default=300)
    parser.add_argument("--model-free", type=int, default=0)
    parser.add_argument("--refills", type=int, nargs="*", default=[], help="blocks of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="part.field=value, or adam(rate)")
    parser.add_argument("--save", help="where to keep the trained parts")
    parser.add_argument("--load", help="what --save kept, or a checkpoint of a run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    config = catch().model
    for assignment in args.set:
        name, value = assignment.split("=", 1)
        part, field = name.split(".")
        changed = replace(getattr(config, part), **{field: eval(value, {"adam": adam})})
        config = replace(config, **{part: changed})
    rng = np.random.default_rng(args.seed)
    columns = collect(
        8, args.env_steps // 8, lambda step: rng.integers(3, size=len(step.reward)), args.seed
    )
    print("random return", columns["reward"].sum() / columns["is_last"].sum())
    split = 9 * args.env_steps // 80
    data = Data({name: column[:, :split] for name, column in columns.items()}, args.seed)
    others = Data({name: column[:, split:] for name, column in columns.items()}, args.seed)
    env = make_vector_env(ENV, 1, 0)
    context = TrainContext("cpu", "float32", False, args.seed, Collective())
    trainable = IrisTrainable(config, env.spaces, context)
    if args.load:
        saved = torch.load(args.load, weights_only=True)
        saved = saved.get("trainable", saved)["model"]
        trainable.model.load_state_dict({**trainable.model.state_dict(), **saved})
    train(
        trainable, data, TOKENIZER, args.tokenizer, 100,
        lambda: show_report(trainable, others, TOKENIZER)
        + tokenizer_fidelity(trainable, others.columns),
    )  # fmt: skip
    train(
        trainable, data, WORLD_MODEL, args.world_model, 100,
        lambda: show_report(trainable, others, WORLD_MODEL)
        + outcome_accuracy(trainable, others)
        + f", following the ball pays {imagined_return(trainable, others, follow_the_ball):.2f}",
    )  # fmt: skip
    if args.save:
        torch.save(trainable.state_dict(), args.save)
    if args.refills:
        compare_refills(trainable, others, args.refills)
    if args.model_free:
        model_free(config, trainable, args.model_free)
    else:
        train(
            trainable, data, ACTOR_CRITIC, args.actor_critic, 25,
            lambda: f"real return {evaluate(config, trainable, 200):.3f}",
        )  # fmt: skip
    print(
        f"in imagination following the ball pays "
        f"{imagined_return(trainable, others, follow_the_ball):.3f} and the trained actor "
        f"{imagined_return(trainable, others, actor_of(config, trainable)):.3f}, in the real game "
        f"1 and {evaluate(config, trainable, 200):.3f}"
    )


if __name__ == "__main__":
    main()
