"""The world model: a transformer over blocks of a frame's K tokens and the action after it.

::

    block t     z0  z1  …  zK-1   a            positions t (K + 1) … t (K + 1) + K
    predicts    z1  z2  …   –     z0 of frame t + 1, sign of its reward, whether it is the end

The last two may be read one frame later instead, at zK-1 of block t + 1 (``outcomes``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.iris.config import WorldModelConfig
from wm_distributed.families.iris.embeddings import (
    AbsolutePositions,
    CodeEmbedding,
    RelativePositions,
)
from wm_distributed.families.iris.steps import Transitions, masked_mean
from wm_distributed.families.iris.transformer import (
    Cache,
    Transformer,
    causal,
    init_transformer_,
)

REWARD_SIGNS = 3


class WorldModel(nn.Module):
    """Predicts the next token, and after an action the reward's sign and the end.

    Source: Micheli et al. (2023), section 2.2 and appendix A.2; the reward is learned as the class
        of its sign, as in the authors' code.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        num_tokens: int,
        codes: Callable[[], Tensor],
        num_actions: int,
    ) -> None:
        """Builds the networks.

        Args:
            config: Sizes.
            num_tokens: K, tokens of a frame.
            codes: Gives the tokenizer's codes ``(V, D)`` as they are now.
            num_actions: A.
        """
        super().__init__()
        self.config = config
        self.num_tokens = num_tokens
        self.block = num_tokens + 1
        self.late_outcomes = config.outcomes == "frame"
        self.max_positions = config.blocks * self.block
        width, vocabulary = config.width, len(codes())
        self.tokens: nn.Module
        if config.embeddings == "codes":
            self.tokens = CodeEmbedding(codes, width)
        else:
            self.tokens = nn.Embedding(vocabulary, width)
        self.actions = nn.Embedding(num_actions, width)
        self.positions: AbsolutePositions | RelativePositions
        if config.positions == "relative":
            self.positions = RelativePositions(self.max_positions, self.block, config.heads, width)
        else:
            self.positions = AbsolutePositions(self.max_positions, width)
        self.transformer = Transformer(width, config.layers, config.heads, config.dropout)
        self.next_token = _head(width, vocabulary)
        self.reward = _head(width, REWARD_SIGNS)
        self.end = _head(width, 1)
        init_transformer_(self)

    def embed(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Embeddings of whole blocks ``(B, T (K + 1), width)``, without their positions.

        Args:
            tokens: ``int64 (B, T, K)``.
            actions: ``int64 (B, T)``.
        """
        parts = [self.tokens(tokens), self.actions(actions).unsqueeze(2)]
        return torch.cat(parts, dim=2).flatten(1, 2)

    def run(self, x: Tensor, allowed: Tensor | None, cache: Cache | None = None) -> Tensor:
        """Outputs ``(B, n, width)`` for embeddings that follow those in the cache."""
        first = 0 if cache is None else cache.size
        stop = first + x.shape[1]
        assert stop <= self.max_positions, f"{stop} positions, at most {self.max_positions} fit"
        positions, allowed = self.positions(first, stop, allowed)
        out: Tensor = self.transformer(x + positions, allowed, cache)
        return out

    def visible(self, segment: Tensor) -> Tensor:
        """What sees what among whole blocks, ``bool (B, 1, L, L)``: the past of the same episode.

        Args:
            segment: ``int64 (B, T)``, number of each block's episode.
        """
        position = segment.repeat_interleave(self.block, dim=1)  # (B, L)
        same = position.unsqueeze(2) == position.unsqueeze(1)
        return (same & causal(position.shape[1], segment.device)).unsqueeze(1)

    def forward(self, tokens: Tensor, actions: Tensor, segment: Tensor) -> Tensor:
        """Outputs by block ``(B, T, K + 1, width)`` for T blocks from position 0 on."""
        out = self.run(self.embed(tokens, actions), self.visible(segment))
        return torch.unflatten(out, 1, (-1, self.block))

    def outcomes(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of reward signs ``(B, n, 3)`` and ends ``(B, n)`` of the first n transitions.

        Args:
            out: Outputs by block ``(B, T, K + 1, width)``. Read at the action, they tell of all T
                transitions; at the last token of the frame after it, of all but the last.
        """
        return self.outcomes_at(out[:, 1:, -2] if self.late_outcomes else out[:, :, -1])

    def outcomes_at(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(…, 3)`` and ``(…)`` read from outputs ``(…, width)`` that tell them."""
        return self.reward(out).float(), self.end(out).float().squeeze(-1)


def world_model_losses(
    model: WorldModel, tokens: Tensor, steps: Transitions
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Cross-entropies of tokens, reward signs and ends, and how often the likeliest is right.

    Args:
        model: In training mode.
        tokens: ``int64 (B, T + 1, K)``.
        steps: The T transitions between these frames.
    """
    out = model(tokens[:, :-1], steps.action, steps.segment)  # (B, T, K + 1, width)
    inside = model.next_token(out[:, :, : model.num_tokens - 1]).float()
    after = model.next_token(out[:, :, -1]).float()
    reward, end = model.outcomes(out)
    told = Transitions(*(column[:, : end.shape[1]] for column in steps))
    logits = torch.cat([inside, after.unsqueeze(2)], dim=2)  # (B, T, K, V)
    target = torch.cat([tokens[:, :-1, 1:], tokens[:, 1:, :1]], dim=2)
    known = torch.ones_like(target, dtype=torch.bool)
    known[:, :, -1] = steps.valid  # the first token of the next episode is not predicted
    changed = (tokens[:, 1:] != tokens[:, :-1]) & steps.valid.unsqueeze(-1)
    errors = {
        "tokens": (_cross_entropy(logits, target), known),
        "reward": (_cross_entropy(reward, told.reward_class), told.valid),
        "end": (
            F.binary_cross_entropy_with_logits(end, told.end, reduction="none"),
            told.valid,
        ),
    }
    right = (logits.argmax(-1) == target).float()
    figures = {
        "token_accuracy": masked_mean(right, known),
        "changed_token_accuracy": masked_mean(right, _as_predicted(changed)),
        "reward_accuracy": masked_mean(
            (reward.argmax(-1) == told.reward_class).float(), told.valid
        ),
        "end_accuracy": masked_mean(((end > 0) == (told.end > 0)).float(), told.valid),
    }
    return {name: masked_mean(*pair) for name, pair in errors.items()}, figures


def _as_predicted(mask: Tensor) -> Tensor:
    """What is said of the tokens of frames 1 to T ``bool (B, T, K)``, where they are predicted.

    That is at the action before its frame for the first token, and within the frame for the
    others. The first frame's get False; of the last frame's, no output predicts any but the first.
    """
    inside = F.pad(mask[:, :-1, 1:], (0, 0, 1, 0))
    return torch.cat([inside, mask[:, :, :1]], dim=2)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of each prediction: logits ``(…, C)``, classes ``(…)``."""
    return F.cross_entropy(logits.movedim(-1, 1), target, reduction="none")


def _head(width: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_out))
