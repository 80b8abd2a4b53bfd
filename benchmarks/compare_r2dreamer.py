"""Train steps a second beside NM512/r2dreamer's, in turn and in one process.

Needs a checkout of https://github.com/NM512/r2dreamer and what it imports (tensordict 0.14.3,
torchrl 0.14.1, hydra-core 1.3)::

    python benchmarks/compare_r2dreamer.py --checkout ../r2dreamer --size 1m --obs vector

Both train DreamerV3 with a decoder at B16×T64 on synthetic data from their own replay, and write
the latents back. r2dreamer always runs under fp16 autocast with a gradient scaler, which CPUs
emulate slowly: here its autocast is replaced by ``--precision``. Its step includes its sampling
and ours does not, because ours samples in other processes; the time of its sampling is measured
apart and taken off. CPU time is what a busy machine does not change.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.dreamer import FAMILY
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.presets import NETS
from wm_distributed.types import TensorBatch

BATCH, LENGTH, NUM_ENVS, STORED = 16, 64, 8, 500
ACTION_SIZE, VECTOR_SIZE = 1, 5
SIZES = {
    "1m": {"deter": 512, "hidden": 64, "discrete": 4, "depth": 4, "units": 64},
    "12m": {"deter": 2048, "hidden": 256, "discrete": 16, "depth": 16, "units": 256},
}


def peer_step(args: argparse.Namespace) -> tuple[Any, Any]:
    """``(update, sample)`` of the peer: functions without arguments."""
    sys.path.insert(0, str(args.checkout))
    import buffer as peer_buffer
    import dreamer as peer_dreamer
    from hydra import compose, initialize_config_dir
    from tensordict import TensorDict

    env = "dmc_vision" if args.obs == "image" else "dmc_proprio"
    overrides = [f"env={env}", "device=cpu", "model.compile=false", "model.rep_loss=dreamer"]
    overrides += [f"model.{name}={value}" for name, value in SIZES[args.size].items()]
    with initialize_config_dir(str(args.checkout / "configs"), version_base=None):
        config = compose("configs", overrides=overrides)
    dtype = torch.bfloat16 if args.precision == "bfloat16" else None
    peer_dreamer.autocast = lambda **_: (
        contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)
    )
    scaler = SimpleNamespace(
        scale=lambda loss: loss,
        unscale_=lambda optimizer: None,
        step=lambda optimizer: optimizer.step(),
        update=lambda: None,
        get_scale=lambda: 1.0,
    )
    if args.obs == "image":
        observation = {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
    else:
        observation = {"vector": spaces.Box(-np.inf, np.inf, (VECTOR_SIZE,), np.float32)}
    action = spaces.Box(-1, 1, (ACTION_SIZE,), np.float32)
    agent = peer_dreamer.Dreamer(config.model, spaces.Dict(observation), action).to("cpu")
    agent._scaler = scaler
    replay = peer_buffer.Buffer(config.buffer)
    net = SIZES[args.size]
    for t in range(STORED):
        columns = {name: torch.from_numpy(_random(space)) for name, space in observation.items()}
        replay.add_transition(
            TensorDict(
                {
                    **columns,
                    "action": torch.rand(NUM_ENVS, ACTION_SIZE) * 2 - 1,
                    "reward": torch.rand(NUM_ENVS, 1),
                    "is_first": torch.full((NUM_ENVS, 1), t % 100 == 0),
                    "is_last": torch.full((NUM_ENVS, 1), t % 100 == 99),
                    "is_terminal": torch.zeros(NUM_ENVS, 1, dtype=torch.bool),
                    "episode": torch.arange(NUM_ENVS),
                    "stoch": torch.zeros(NUM_ENVS, 32, net["discrete"]),
                    "deter": torch.zeros(NUM_ENVS, net["deter"]),
                },
                batch_size=(NUM_ENVS,),
            )
        )
    return lambda: agent.update(replay), replay.sample


def our_step(args: argparse.Namespace) -> Any:
    """Our train step on a fixed batch: a function without arguments."""
    space: dict[str, spaces.Box] = (
        {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
        if args.obs == "image"
        else {"vector": spaces.Box(-np.inf, np.inf, (VECTOR_SIZE,), np.float32)}
    )
    config = DreamerConfig(net=NETS[args.size])
    trainable = FAMILY.build_trainable(
        config,
        EnvSpaces(space, spaces.Box(-1, 1, (ACTION_SIZE,), np.float32)),
        TrainContext("cpu", args.precision, args.compile, 0, Collective()),
    )
    shape = (BATCH, LENGTH + 1)
    image = args.obs == "image"
    batch = TensorBatch(
        {
            **(
                {"obs/image": torch.randint(0, 256, (*shape, 64, 64, 3), dtype=torch.uint8)}
                if image
                else {"obs/vector": torch.randn(*shape, VECTOR_SIZE)}
            ),
            "action": torch.rand(*shape, ACTION_SIZE) * 2 - 1,
            "reward": torch.rand(shape),
            "is_first": torch.zeros(shape, dtype=torch.bool),
            "is_last": torch.zeros(shape, dtype=torch.bool),
            "is_terminal": torch.zeros(shape, dtype=torch.bool),
            "latent/deter": torch.zeros(*shape, SIZES[args.size]["deter"], dtype=torch.float16),
            "latent/stoch": torch.zeros(*shape, 32, dtype=torch.uint8),
        },
        context=1,
    )
    phase = FAMILY.phases(config)[0].name
    carry = trainable.init_train(phase, BATCH)
    return lambda: trainable.train_step(phase, carry, batch)


def _random(space: spaces.Box) -> np.ndarray:
    if space.dtype == np.uint8:
        return np.random.randint(0, 256, (NUM_ENVS, *space.shape), np.uint8)
    return np.random.randn(NUM_ENVS, *space.shape).astype(np.float32)


def timed(function: Any) -> np.ndarray:
    """Wall and CPU seconds of one call."""
    begin = np.array([time.perf_counter(), time.process_time()])
    function()
    return np.array([time.perf_counter(), time.process_time()]) - begin


def main() -> None:
    """Times both in turn and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--size", choices=list(SIZES), default="1m")
    parser.add_argument("--obs", choices=["vector", "image"], default="vector")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="compile ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    args.checkout = args.checkout.resolve()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    peer, peer_sample = peer_step(args)
    ours = our_step(args)
    for _ in range(3):
        peer(), ours()
    peer_seconds, our_seconds, sample_seconds = [], [], []
    for _ in range(args.steps):
        peer_seconds.append(timed(peer))
        our_seconds.append(timed(ours))
        sample_seconds.append(timed(peer_sample))
    sampling = np.median(sample_seconds, axis=0)
    theirs = np.median(peer_seconds, axis=0) - sampling
    mine = np.median(our_seconds, axis=0)
    print(
        f"{args.size} {args.obs} {args.precision}, {args.threads} threads, {args.steps} steps each"
    )
    for index, clock in enumerate(("wall", "CPU")):
        print(
            f"{clock} seconds a train step: r2dreamer {theirs[index]:.3f} "
            f"(and {sampling[index]:.3f} sampling), wm_distributed {mine[index]:.3f}; "
            f"{theirs[index] / mine[index]:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
