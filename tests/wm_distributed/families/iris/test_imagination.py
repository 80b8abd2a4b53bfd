"""Token by token with remembered keys and values, against everything at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wm_distributed.families.iris.config import WorldModelConfig
from wm_distributed.families.iris.imagination import Imagination, Prediction
from wm_distributed.families.iris.world_model import WorldModel

K, V, A, B = 3, 7, 4, 5
CONFIG = WorldModelConfig(blocks=6, layers=2, heads=2, width=8, dropout=0.0)


@pytest.fixture(
    params=[("absolute", "learned", "action"), ("relative", "codes", "frame")], ids="-".join
)
def model(request: pytest.FixtureRequest) -> WorldModel:
    """Random weights that make every choice depend strongly on everything before it."""
    names = ("positions", "embeddings", "outcomes")
    config = replace(CONFIG, **dict(zip(names, request.param, strict=True)))
    codes = torch.randn(V, 5)
    model = WorldModel(config, K, lambda: codes, A).eval()
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.5)
    return model


def history(num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    tokens = torch.randint(V, (B, num_frames, K))
    actions = torch.randint(A, (B, num_frames - 1))
    return tokens, actions, torch.zeros(B, num_frames, dtype=torch.bool)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


class Recorder(Imagination):
    """Keeps the logits that each token was drawn from."""

    logits: list[Tensor]

    def _sample(self, out: Tensor) -> Tensor:
        self.__dict__.setdefault("logits", []).append(self._model.next_token(out))
        return super()._sample(out)


def roll(
    model: WorldModel, refill: int, past: tuple[Tensor, Tensor, Tensor], steps: int
) -> tuple[Recorder, list[Prediction], Tensor]:
    model.config = replace(model.config, refill_blocks=refill)
    imagination = Recorder(model, *past, generator())
    actions = torch.randint(A, (B, steps), generator=torch.Generator().manual_seed(2))
    return imagination, [imagination.step(actions[:, t]) for t in range(steps)], actions


@torch.no_grad()
def test_cached_logits_equal_those_of_the_whole_prefix(model: WorldModel) -> None:
    past = history(2)
    tokens, actions, _ = past
    imagination, predictions, taken = roll(model, 2, past, 4)
    frames = torch.cat([tokens, torch.stack([p.tokens for p in predictions], dim=1)], dim=1)
    every = torch.cat([actions, taken, taken[:, :1]], dim=1)  # the last one follows all that counts
    out = model(frames, every, torch.zeros(B, 6, dtype=torch.long))  # (B, 6, K + 1, D)
    flat = out.flatten(1, 2)
    first = 2 * (K + 1) - 1  # where the first imagined action stands
    expected = []
    for step in range(4):
        start = first + step * (K + 1)
        expected += [flat[:, start + token] for token in range(K)]
        told = flat[:, start + K if model.late_outcomes else start]
        torch.testing.assert_close(predictions[step].reward, model.reward(told))
        torch.testing.assert_close(predictions[step].end, model.end(told).squeeze(-1))
    assert len(imagination.logits) == len(expected) == 4 * K
    for found, want in zip(imagination.logits, expected, strict=True):
        torch.testing.assert_close(found, model.next_token(want), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("refill", [1, 3])
@torch.no_grad()
def test_a_full_window_is_filled_again_with_the_newest_blocks(
    model: WorldModel, refill: int
) -> None:
    past = history(refill)
    steps = 6 - refill  # that fit: as many blocks as there are, less those it began with
    imagination, predictions, taken = roll(model, refill, past, steps + 2)
    frames = torch.cat([past[0], torch.stack([p.tokens for p in predictions], dim=1)], dim=1)
    every = torch.cat([past[1], taken], dim=1)
    # From the refill on, it is as if imagination had begun with those frames.
    newest = slice(steps, steps + refill)
    fresh = Recorder(
        model, frames[:, newest], every[:, newest][:, : refill - 1],
        torch.zeros(B, refill, dtype=torch.bool), generator(),
    )  # fmt: skip
    fresh.step(taken[:, steps])
    torch.testing.assert_close(fresh.logits[0], imagination.logits[steps * K])


@torch.no_grad()
def test_what_lies_before_an_episode_is_not_seen(model: WorldModel) -> None:
    tokens, actions, is_first = history(3)
    is_first[2:, 1] = True  # the last rows' episodes begin at the second frame
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % V
    model.config = replace(model.config, refill_blocks=3)
    first, second = (
        Imagination(model, frames, actions, is_first, generator()).step(actions[:, 0])
        for frames in (tokens, other)
    )
    changed = (first.reward != second.reward).any(-1)
    assert changed.tolist() == [True, True, False, False, False]


@torch.no_grad()
def test_tokens_of_a_frame_are_drawn_one_after_the_other(model: WorldModel) -> None:
    """Rows that begin alike and draw another first token get other chances for the second."""
    tokens = torch.zeros(B, 1, K, dtype=torch.long)
    imagination = Recorder(
        model, tokens, tokens[:, :0, 0], torch.zeros(B, 1, dtype=torch.bool), generator()
    )
    drawn = imagination.step(torch.zeros(B, dtype=torch.long)).tokens[:, 0]
    first, second = imagination.logits[:2]
    torch.testing.assert_close(first, first[:1].expand_as(first))
    other = drawn != drawn[0]
    assert other.any()
    for row in range(B):
        assert torch.allclose(second[row], second[0], atol=1e-4) != bool(other[row])


@torch.no_grad()
def test_a_low_temperature_leaves_the_likeliest_token(model: WorldModel) -> None:
    tokens = torch.zeros(B, 1, K, dtype=torch.long)
    model.config = replace(model.config, temperature=1e-4)
    imagination = Recorder(
        model, tokens, tokens[:, :0, 0], torch.zeros(B, 1, dtype=torch.bool), generator()
    )
    drawn = imagination.step(torch.arange(B) % A).tokens
    assert torch.equal(drawn, torch.stack(imagination.logits, dim=1).argmax(-1))


def test_the_expected_reward_is_the_difference_of_the_chances() -> None:
    logits = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.4, 0.0]]).clamp_min(1e-9).log()
    prediction = Prediction(torch.zeros(2, K), logits, torch.zeros(2))
    torch.testing.assert_close(prediction.expected_reward(), torch.tensor([0.6, -0.6]))


def test_more_blocks_than_the_window_has_are_refused(model: WorldModel) -> None:
    x = torch.zeros(1, model.max_positions + 1, 8)
    with pytest.raises(AssertionError, match="25 positions, at most 24 fit"):
        model.run(x, None)
