"""Train steps of IRIS beside eloialonso/iris', in turn and in one process.

Needs a checkout of https://github.com/eloialonso/iris and einops; whatever else it imports serves
its environments, files and perceptual loss, and is replaced by mocks::

    python benchmarks/compare_iris.py --checkout ../iris

Both train at the published sizes on the same frames, without the perceptual loss. A step of the
actor-critic is nearly all imagination: its burn-in decoded, then every frame imagined token by
token with a cache, decoded, acted in. CPU time is what a busy machine does not change.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.iris import FAMILY
from wm_distributed.families.iris.config import IrisConfig
from wm_distributed.types import TensorBatch

BURN_IN, BLOCKS, ACTIONS = 20, 20, 6
UNUSED = ("cv2", "gym", "psutil", "requests", "torchvision")
"""What the peer imports and its train steps do not use."""
Step = Callable[[], object]


def peer_steps(args: argparse.Namespace, frames: dict[str, torch.Tensor]) -> dict[str, Step]:
    """A train step of each of the peer's components: functions without arguments."""
    sys.path.insert(0, str(args.checkout / "src"))
    sys.modules |= {name: MagicMock() for name in UNUSED}
    from models.actor_critic import ActorCritic
    from models.tokenizer import Decoder, Encoder, EncoderDecoderConfig, Tokenizer
    from models.transformer import TransformerConfig
    from models.world_model import WorldModel
    from utils import configure_optimizer

    nets = EncoderDecoderConfig(64, 3, 512, 64, [1] * 5, 2, [8, 16], 3, 0.0)
    tokenizer = Tokenizer(512, 512, Encoder(nets), Decoder(nets), with_lpips=False)
    tokenizer.lpips = lambda real, made: torch.zeros(())
    world_model = WorldModel(
        512, ACTIONS, TransformerConfig(17, BLOCKS, "causal", 10, 4, 256, 0.1, 0.1, 0.1)
    )
    actor_critic = ActorCritic(ACTIONS)
    parts: dict[str, tuple[nn.Module, torch.optim.Optimizer, dict[str, object]]] = {
        "tokenizer": (tokenizer, torch.optim.Adam(tokenizer.parameters(), 1e-4), {}),
        "world_model": (
            world_model,
            configure_optimizer(world_model, 1e-4, 0.01),
            {"tokenizer": tokenizer},
        ),
        "actor_critic": (
            actor_critic,
            torch.optim.Adam(actor_critic.parameters(), 1e-4),
            {
                "tokenizer": tokenizer,
                "world_model": world_model,
                "imagine_horizon": args.horizon,
                "gamma": 0.995,
                "lambda_": 0.95,
                "entropy_weight": 0.001,
            },
        ),
    }

    def step(name: str) -> None:
        module, optimizer, needs = parts[name]
        images = frames[name].movedim(-1, 2).float() / 255.0
        size = images.shape[:2]
        batch = {
            "observations": images,
            "actions": torch.randint(ACTIONS, size),
            "rewards": torch.zeros(size),
            "ends": torch.zeros(size, dtype=torch.long),
            "mask_padding": torch.ones(size, dtype=torch.bool),
        }
        for other, _, _ in parts.values():
            other.train(other is module)
        optimizer.zero_grad()
        module.compute_loss(batch, **needs).loss_total.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        optimizer.step()

    return {name: partial(step, name) for name in parts}


def our_steps(args: argparse.Namespace, frames: dict[str, torch.Tensor]) -> dict[str, Step]:
    """A train step of each of our phases: functions without arguments."""
    config = IrisConfig()
    config = replace(config, actor_critic=replace(config.actor_critic, horizon=args.horizon))
    trainable = FAMILY.build_trainable(
        config,
        EnvSpaces({"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}, spaces.Discrete(ACTIONS)),
        TrainContext("cpu", "float32", False, 0, Collective()),
    )

    def step(name: str) -> None:
        images = frames[name]
        size, flags = images.shape[:2], torch.zeros(images.shape[:2], dtype=torch.bool)
        columns = {
            "obs/image": images,
            "action": torch.randint(ACTIONS, size),
            "reward": torch.zeros(size),
            "is_first": flags,
            "is_last": flags,
            "is_terminal": flags,
        }
        trainable.train_step(name, None, TensorBatch(columns, context=0))

    return {name: partial(step, name) for name in frames}


def timed(function: Step) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Times both in turn and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=8, help="of a tokenizer's batch")
    parser.add_argument("--batch", type=int, default=2, help="sequences of the others' batches")
    parser.add_argument("--horizon", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    args.checkout = args.checkout.resolve()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shapes = {
        "tokenizer": (args.frames, 1),
        "world_model": (args.batch, BLOCKS),
        "actor_critic": (args.batch, BURN_IN + 1),
    }
    frames = {
        name: torch.randint(0, 256, (*shape, 64, 64, 3), dtype=torch.uint8)
        for name, shape in shapes.items()
    }
    peer = peer_steps(args, frames)
    # Ours knows the frame after the last action, too, and so takes one more for as many blocks.
    more = torch.cat([frames["world_model"], frames["world_model"][:, :1]], dim=1)
    ours = our_steps(args, frames | {"world_model": more})
    print(f"{args.threads} threads, {args.steps} steps each; CPU (wall) seconds a train step")
    for name in frames:
        peer[name](), ours[name]()
        seconds = [(*timed(peer[name]), *timed(ours[name])) for _ in range(args.steps)]
        wall, cpu, our_wall, our_cpu = np.median(seconds, axis=0)
        print(
            f"{name}: eloialonso/iris {cpu:.2f} ({wall:.2f}), wm_distributed {our_cpu:.2f} "
            f"({our_wall:.2f}); {cpu / our_cpu:.2f} times as fast",
            flush=True,
        )
        if name == "actor_critic":
            count = args.batch * (args.horizon - 1)
            print(f"imagined frames a CPU second: {count / cpu:.1f} and {count / our_cpu:.1f}")


if __name__ == "__main__":
    main()
