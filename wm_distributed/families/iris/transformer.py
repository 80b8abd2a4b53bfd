"""A causal transformer that can remember keys and values of what it has seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Cache:
    """Keys and values of up to ``capacity`` positions of B sequences, for every layer."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        """Remembers nothing yet; the memory is allocated for the first keys."""
        self._capacity = capacity
        self._memory: list[Tensor | None] = [None] * num_layers
        self.size = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds those ``(B, heads, n, d)`` of n new positions; gives all of the layer so far.

        ``size`` moves on only with :meth:`advance`, once all layers have been extended.
        """
        memory, stop = self._memory[layer], self.size + keys.shape[2]
        if memory is None:
            batch, heads, _, size = keys.shape
            memory = keys.new_empty(2, batch, heads, self._capacity, size)
            self._memory[layer] = memory
        memory[0, :, :, self.size : stop] = keys
        memory[1, :, :, self.size : stop] = values
        return memory[0, :, :, :stop], memory[1, :, :, :stop]

    def advance(self, count: int) -> None:
        """Counts ``count`` new positions."""
        self.size += count


class Transformer(nn.Module):
    """Layers of attention and perceptron, normalised before each (pre-norm), and after the last.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); weights
        start normal with deviation 0.02, as in Micheli et al. (2023).
    """

    def __init__(self, width: int, num_layers: int, heads: int, dropout: float) -> None:
        """Builds the layers."""
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, allowed: Tensor | None, cache: Cache | None = None) -> Tensor:
        """Outputs ``(B, n, width)``.

        Args:
            x: Embeddings of n positions, which follow those in the cache.
            allowed: Which of the m positions so far (those in the cache, then the new ones) each
                new one sees, ``bool``, or a bias of attention, both ``(B or 1, heads or 1, n, m)``;
                None: all.
            cache: What came before, to which the new positions are added.
        """
        x = self.drop(x)
        for index, layer in enumerate(self.layers):
            x = layer(x, allowed, cache, index)
        if cache is not None:
            cache.advance(x.shape[1])
        out: Tensor = self.norm(x)
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self._dropout = dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor | None, cache: Cache | None, index: int) -> Tensor:
        x = x + self.drop(self.out(self._attend(self.norm_attention(x), allowed, cache, index)))
        out: Tensor = x + self.mlp(self.norm_mlp(x))
        return out

    def _attend(self, x: Tensor, allowed: Tensor | None, cache: Cache | None, index: int) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self._heads, -1))  # (B, n, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, n, d) each
        if cache is not None:
            key, value = cache.extend(index, key, value)
        mixed = F.scaled_dot_product_attention(
            query, key, value, allowed, self._dropout if self.training else 0.0
        )
        return mixed.transpose(1, 2).flatten(2)  # (B, n, width)


def init_transformer_(module: nn.Module) -> None:
    """Draws the weights of linear layers and embeddings as the paper does; biases are zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers, which alone are to decay."""
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return [param for part in linear for name, param in part.named_parameters() if name == "weight"]


def causal(num_positions: int, device: torch.device) -> Tensor:
    """``bool (n, n)``, whether the first position sees the second: not those after it."""
    return torch.ones(num_positions, num_positions, dtype=torch.bool, device=device).tril()
