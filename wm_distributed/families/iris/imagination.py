"""The world model rolled out, one token after the other, with remembered keys and values.

A step feeds the action, which gives the next frame's first token; then every token is fed to get
the one after it: K + 1 passes a step. Reward and end are read at the first pass or at the last
(``WorldModelConfig.outcomes``). When no further step fits into the window, it is forgotten and
filled again with the newest blocks: the last frame alone, as published, or some more
(``WorldModelConfig.refill_blocks``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wm_distributed.families.iris.steps import segments
from wm_distributed.families.iris.transformer import Cache
from wm_distributed.families.iris.world_model import WorldModel
from wm_distributed.ops.categorical import sample_index


@dataclass(frozen=True)
class Prediction:
    """What an action of B sequences leads to.

    Attributes:
        tokens: The next frame, ``int64 (B, K)``.
        reward: Logits of its sign, ``(B, 3)``.
        end: Logit ``(B,)`` of the episode's end.
    """

    tokens: Tensor
    reward: Tensor
    end: Tensor

    def expected_reward(self) -> Tensor:
        """Chance of a positive less that of a negative one, ``(B,)``."""
        probs = self.reward.softmax(-1)
        return probs[:, 2] - probs[:, 0]


class Imagination:
    """B imagined sequences. The model must be in evaluation mode."""

    def __init__(
        self,
        model: WorldModel,
        tokens: Tensor,
        actions: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Begins with the newest of the given frames, ``refill_blocks`` at most.

        Args:
            model: The world model.
            tokens: ``int64 (B, T, K)``, at least one frame; the last one is where it begins.
            actions: ``int64 (B, T - 1)``, chosen in all frames but the last.
            is_first: ``bool (B, T)``; what lies before an episode's first frame is not seen.
            generator: Of the sampled tokens.
        """
        self._model = model
        self._refill = model.config.refill_blocks
        self._generator = generator
        self._frames = list(tokens[:, -self._refill :].unbind(1))
        self._actions = list(actions[:, actions.shape[1] + 1 - len(self._frames) :].unbind(1))
        self._segments = list(segments(is_first)[:, -self._refill :].unbind(1))
        self._fill()

    @property
    def tokens(self) -> Tensor:
        """The newest frame, ``int64 (B, K)``."""
        return self._frames[-1]

    @torch.no_grad()
    def step(self, action: Tensor) -> Prediction:
        """Takes an action ``int64 (B,)`` and imagines the frame after it."""
        if self._cache.size + self._model.block > self._model.max_positions:
            self._fill()
        outputs = [self._run(self._model.actions(action))]
        tokens: list[Tensor] = []
        while len(tokens) < self._model.num_tokens:
            tokens.append(self._sample(outputs[-1]))
            outputs.append(self._run(self._model.tokens(tokens[-1])))
        self._append(torch.stack(tokens, dim=1), action)
        reward, end = self._model.outcomes_at(outputs[-1 if self._model.late_outcomes else 0])
        return Prediction(self.tokens, reward, end)

    def _sample(self, out: Tensor) -> Tensor:
        logits = self._model.next_token(out) / self._model.config.temperature
        return sample_index(logits, self._generator)

    def _append(self, tokens: Tensor, action: Tensor) -> None:
        """Adds a frame, and forgets those that no refill would need."""
        for history, newest, kept in (
            (self._frames, tokens, self._refill),
            (self._actions, action, self._refill - 1),
            (self._segments, self._segments[-1], self._refill),
        ):
            history.append(newest)
            del history[: max(0, len(history) - kept)]

    def _run(self, embedded: Tensor) -> Tensor:
        """Feeds embeddings ``(B, width)`` of one position; its output sees all before it."""
        allowed = None
        if self._usable is not None:
            allowed = self._usable[:, None, None, : self._cache.size + 1]
        return self._model.run(embedded.unsqueeze(1), allowed, self._cache).squeeze(1)

    @torch.no_grad()
    def _fill(self) -> None:
        """Fills an empty window with the history."""
        model, device = self._model, self.tokens.device
        self._cache = Cache(len(model.transformer.layers), model.max_positions)
        segment = torch.stack(self._segments, dim=1)  # (B, r)
        frames = torch.stack(self._frames, dim=1)
        actions = torch.stack([*self._actions, torch.zeros_like(segment[:, 0])], dim=1)
        embedded = model.embed(frames, actions)[:, :-1]  # the last action is not known
        count = embedded.shape[1]
        self._usable: Tensor | None = None
        if (segment != segment[:, -1:]).any():
            same = (segment == segment[:, -1:]).repeat_interleave(model.block, dim=1)[:, :count]
            self._usable = torch.ones(
                len(segment), model.max_positions, dtype=torch.bool, device=device
            )
            self._usable[:, :count] = same
        model.run(embedded, model.visible(segment)[..., :count, :count], self._cache)
