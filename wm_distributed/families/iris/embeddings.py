"""What the transformer is told of a token and of where it stands: the paper's way, and ours.

Learned from nothing, two tokens are as different as any other two, and so are two positions. On
little data it pays to say that tokens look alike, and that places keep their distances.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GAIN = 10.0
"""A bias of attention has to become several units, a weight a tenth of that: so its table is
multiplied by this, and learns as fast as the weights do."""


class CodeEmbedding(nn.Module):
    """A linear map of a token's code, so that tokens that look alike are alike.

    Codes are normalised over the vocabulary: what they all have in common says nothing.

    Source: Cohen et al., "Improving Token-Based World Models with Parallel Observation Prediction"
        (2024), where the codes themselves are the embeddings.
    """

    def __init__(self, codes: Callable[[], Tensor], width: int) -> None:
        """Builds the map.

        Args:
            codes: Gives the tokenizer's codes ``(V, D)`` as they are now.
            width: Of the embeddings.
        """
        super().__init__()
        self._codes = codes
        self.map = nn.Linear(codes().shape[1], width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings ``(…, width)`` of tokens ``(…)``."""
        codes = self._codes().detach().T  # (D, V)
        normalised = F.layer_norm(codes, codes.shape[1:]).T
        out: Tensor = self.map(F.embedding(tokens, normalised))
        return out


class AbsolutePositions(nn.Module):
    """One embedding a position, as published."""

    def __init__(self, num_positions: int, width: int) -> None:
        """Builds the table."""
        super().__init__()
        self.embeddings = nn.Embedding(num_positions, width)

    def forward(
        self, first: int, stop: int, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings of positions from ``first`` on, and what they see, as it came."""
        return self.embeddings.weight[first:stop], allowed


class RelativePositions(nn.Module):
    """An embedding of the place in the block, and a bias of attention for each distance.

    What is learned at one block then holds at all others: the same place in the frame before is
    always as far away.

    Source: Raffel et al., "Exploring the Limits of Transfer Learning" (2020), section 2.1: one
        bias a head and distance, shared by the layers; here no distances are thrown together.
    """

    def __init__(self, num_positions: int, block: int, heads: int, width: int) -> None:
        """Builds the tables for windows of up to ``num_positions``, in blocks of ``block``."""
        super().__init__()
        self.places = nn.Embedding(block, width)
        self.distances = nn.Embedding(num_positions, heads)

    def forward(self, first: int, stop: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embeddings of n positions from ``first`` on, and attention's bias towards all so far.

        Args:
            first: The first of the n positions.
            stop: Number m of positions up to the last of them.
            allowed: ``bool (…, n, m)``, what they see; None: all.

        Returns:
            Embeddings ``(n, width)``; biases ``(B or 1, heads, n, m)``, −∞ where nothing is seen.
        """
        position = torch.arange(stop, device=self.distances.weight.device)
        distance = (position[first:, None] - position).clamp_min(0)  # what comes later is not seen
        bias = _GAIN * self.distances(distance).movedim(-1, 0).unsqueeze(0)  # (1, heads, n, m)
        if allowed is not None:
            bias = torch.where(allowed, bias, -torch.inf)
        return self.places(position[first:] % len(self.places.weight)), bias
