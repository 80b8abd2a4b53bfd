"""Imagined frames a CPU second at IRIS's published sizes: with the cache, and without.

Without it, the whole prefix is computed again for every token. Both imagine the same number of
frames from one real frame; actor and decoder are left out::

    python benchmarks/iris_imagination.py --batch 8 --frames 10

With ``--refills 1 10`` it measures instead what it costs to fill a full window again with the last
frame alone, as published, or with half a window.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch

from wm_distributed.families.iris.config import WorldModelConfig
from wm_distributed.families.iris.imagination import Imagination
from wm_distributed.families.iris.transformer import causal
from wm_distributed.families.iris.world_model import WorldModel
from wm_distributed.ops.categorical import sample_index

TOKENS, VOCABULARY, ACTIONS = 16, 512, 6


def with_cache(model: WorldModel, tokens: torch.Tensor, frames: int) -> None:
    """Imagines ``frames`` frames, from as many equal ones on as a window is filled with."""
    known = model.config.refill_blocks
    first = torch.zeros(len(tokens), known, dtype=torch.bool)
    actions = torch.zeros(len(tokens), known - 1, dtype=torch.long)
    imagination = Imagination(model, tokens[:, None].expand(-1, known, -1), actions, first)
    for _ in range(frames):
        imagination.step(torch.zeros(len(tokens), dtype=torch.long))


@torch.no_grad()
def without_cache(model: WorldModel, tokens: torch.Tensor, frames: int) -> None:
    """The same, where every token costs a pass over all before it."""
    action = model.actions(torch.zeros(len(tokens), 1, dtype=torch.long))
    prefix = model.tokens(tokens)
    for _ in range(frames):
        prefix = torch.cat([prefix, action], dim=1)
        for position in range(TOKENS):
            out = model.run(prefix, causal(prefix.shape[1], prefix.device))[:, -1]
            if position == 0:
                model.reward(out), model.end(out)
            token = sample_index(model.next_token(out), None)
            prefix = torch.cat([prefix, model.tokens(token).unsqueeze(1)], dim=1)


def compare_refills(
    model: WorldModel, tokens: torch.Tensor, frames: int, refills: list[int]
) -> None:
    """Prints the rate for each number of blocks to fill windows with: medians of three, in turn."""
    rates: dict[int, list[float]] = {blocks: [] for blocks in refills}
    for _ in range(3):
        for blocks in refills:
            model.config = replace(model.config, refill_blocks=blocks)
            began = time.process_time()
            with_cache(model, tokens, frames)
            rates[blocks].append(len(tokens) * frames / (time.process_time() - began))
    for blocks in refills:
        rate = statistics.median(rates[blocks])
        print(f"refill of {blocks}: {rate:.2f} imagined frames a CPU second")


def main() -> None:
    """Measures both in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--refills", type=int, nargs="*", default=[], help="blocks of each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codes = torch.randn(VOCABULARY, WorldModelConfig().width)
    model = WorldModel(WorldModelConfig(), TOKENS, lambda: codes, ACTIONS).eval()
    tokens = torch.randint(VOCABULARY, (args.batch, TOKENS))
    if args.refills:
        compare_refills(model, tokens, args.frames, args.refills)
        return
    rates = {}
    for name, imagine in (("cache", with_cache), ("prefix", without_cache)):
        imagine(model, tokens, 1)
        began = time.process_time()
        imagine(model, tokens, args.frames)
        rates[name] = args.batch * args.frames / (time.process_time() - began)
        print(f"{name}: {rates[name]:.2f} imagined frames a CPU second", flush=True)
    print(f"{rates['cache'] / rates['prefix']:.1f} times as fast with the cache")


if __name__ == "__main__":
    main()
