"""The codebook: the nearest code for each vector, and how codes learn."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.collective import Collective
from wm_distributed.families.iris.config import TokenizerConfig


class Quantized(NamedTuple):
    """Vectors replaced by their nearest codes."""

    tokens: Tensor
    """``int64 (M,)``"""
    straight: Tensor
    """``(M, D)``, the codes, whose gradient passes straight through to the vectors."""
    loss: Tensor
    """Scalar: codes towards vectors (unless they are averages), and vectors towards codes."""


class Codebook(nn.Module):
    """V codes of size D, learned by gradient or as moving averages.

    Source: van den Oord et al., "Neural Discrete Representation Learning" (2017), equation 3, and
        appendix A.1 for the averages. Codes that are hardly used are moved to vectors of the
        batch, as in Dhariwal et al., "Jukebox" (2020), section 3.1; here to vectors that are far
        from their codes, as the first centres are chosen in k-means++ (Arthur and Vassilvitskii,
        2007), so that what fills most frames does not get all the codes.
    """

    codes: Tensor
    """``(V, D)``"""
    counts: Tensor
    sums: Tensor

    def __init__(self, config: TokenizerConfig) -> None:
        """Draws the codes."""
        super().__init__()
        size = config.vocabulary
        codes = torch.empty(size, config.width).uniform_(-1.0 / size, 1.0 / size)
        self._config = config
        if config.codebook == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("counts", torch.zeros(size))
            self.register_buffer("sums", torch.zeros_like(codes))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Indices ``int64 (M,)`` of the codes nearest to ``vectors (M, D)``."""
        codes = self.codes.detach()
        distance = codes.square().sum(-1) - 2.0 * vectors @ codes.T  # less |vector|²: the same
        return distance.argmin(-1)

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantises ``vectors (M, D)``."""
        tokens = self.nearest(vectors.detach())
        codes = F.embedding(tokens, self.codes)
        loss = self._config.commitment * F.mse_loss(vectors, codes.detach())
        if self._config.codebook == "gradient":
            loss = loss + F.mse_loss(codes, vectors.detach())
        return Quantized(tokens, vectors + (codes - vectors).detach(), loss)

    @torch.no_grad()
    def follow(self, vectors: Tensor, tokens: Tensor, collective: Collective) -> None:
        """Moves codes that are averages towards ``vectors (M, D)``, over all ranks.

        Every rank calls it with equally many vectors, in which ranks need not agree.
        """
        distance = (vectors - self.codes[tokens]).square().sum(-1)
        one_hot = F.one_hot(tokens, len(self.codes)).to(vectors.dtype)
        rate = 1.0 - self._config.ema_decay
        self.counts.lerp_(collective.mean_(one_hot.sum(0)), rate)
        self.sums.lerp_(collective.mean_(one_hot.T @ vectors), rate)
        chosen = torch.multinomial(distance + 1e-12, len(self.codes), replacement=True)
        others = collective.broadcast_(vectors[chosen])
        limit = self._config.revive_below
        used = self.counts >= limit
        self.counts.copy_(torch.where(used, self.counts, 2.0 * limit))  # time to be found useful
        moved = self.counts.unsqueeze(-1) * others
        self.sums.copy_(torch.where(used.unsqueeze(-1), self.sums, moved))
        self.codes.copy_(self.sums / self.counts.clamp_min(1e-12).unsqueeze(-1))


def perplexity(tokens: Tensor, vocabulary: int) -> Tensor:
    """How many codes the tokens ``(…)`` use, on the exponential scale of their entropy."""
    share = torch.bincount(tokens.flatten(), minlength=vocabulary) / tokens.numel()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()
