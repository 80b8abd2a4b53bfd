"""Predicts dictionaries of images and vectors from a recurrent state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.nets.config import ActName, NormName
from wm_distributed.nets.conv import ChannelNormAct, UpsampleConv
from wm_distributed.nets.encoder import ObsLayout
from wm_distributed.nets.layers import MLP, BlockLinear, Linear, NormAct
from wm_distributed.ops.twohot import symexp


class ImageDecoder(nn.Module):
    """A low-resolution map from the state, upsampled to images ``(N, C, H, W)`` in [0, 1]."""

    def __init__(
        self,
        deter_size: int,
        stoch_size: int,
        *,
        resolution: tuple[int, int],
        channels: int,
        units: int,
        depths: Sequence[int],
        blocks: int,
        norm: NormName,
        act: ActName,
    ) -> None:
        """Builds the networks.

        Args:
            deter_size: D.
            stoch_size: F.
            resolution: Height and width of the low-resolution map.
            channels: C of the images.
            units: Half the units of the layer that sees the stochastic state.
            depths: Channels of each stage, from high to low resolution.
            blocks: Blocks of the layer that sees the deterministic state; divides ``depths[-1]``.
            norm: Normalisation.
            act: Activation.
        """
        super().__init__()
        self._map_shape = (*resolution, depths[-1])
        size = math.prod(self._map_shape)
        self.deter_in = BlockLinear(deter_size, size, blocks)
        self.stoch_in = nn.Sequential(
            Linear(stoch_size, 2 * units), NormAct(2 * units, norm, act), Linear(2 * units, size)
        )
        self.norm_act = NormAct(depths[-1], norm, act)
        stages: list[nn.Module] = []
        for num_in, num_out in zip(reversed(depths), reversed(depths[:-1]), strict=False):
            stages += [UpsampleConv(num_in, num_out), ChannelNormAct(num_out, norm, act)]
        self.stages = nn.Sequential(*stages, UpsampleConv(depths[0], channels))

    def forward(self, deter: Tensor, stoch: Tensor) -> Tensor:
        """Images of states ``(N, D)``, ``(N, F)``."""
        height, width, _ = self._map_shape
        blocks = torch.unflatten(
            self.deter_in(deter), -1, (height, width, -1)
        )  # (G, N, h, w, depth/G)
        x = blocks.permute(1, 2, 3, 0, 4).flatten(-2)  # (N, h, w, depth)
        x = self.norm_act(x + torch.unflatten(self.stoch_in(stoch), -1, self._map_shape))
        images: Tensor = self.stages(x.permute(0, 3, 1, 2))
        return images.float().sigmoid()


class Decoder(nn.Module):
    """Decodes states into all observations."""

    def __init__(
        self,
        layout: ObsLayout,
        deter_size: int,
        stoch_size: int,
        *,
        units: int,
        vector_layers: int,
        depths: Sequence[int],
        blocks: int,
        norm: NormName,
        act: ActName,
    ) -> None:
        """Builds the networks; arguments as in :class:`ImageDecoder` and ``Encoder``."""
        super().__init__()
        self.layout = layout
        if layout.images:
            self.image = ImageDecoder(
                deter_size,
                stoch_size,
                resolution=layout.low_resolution(len(depths)),
                channels=sum(layout.channels),
                units=units,
                depths=depths,
                blocks=blocks,
                norm=norm,
                act=act,
            )
        if layout.vectors:
            self.vector = nn.Sequential(
                MLP(deter_size + stoch_size, units, vector_layers, norm, act),
                Linear(units, sum(layout.vector_sizes)),
            )

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        """Predictions for states ``(N, D)``, ``(N, F)``, in the form of ``ObsLayout.prepare``."""
        predicted: dict[str, Tensor] = {}
        if self.layout.images:
            images = torch.split(self.image(deter, stoch), self.layout.channels, dim=1)
            predicted.update(zip(self.layout.images, images, strict=True))
        if self.layout.vectors:
            vectors = self.vector(torch.cat([deter, stoch], dim=-1)).float()
            split = torch.split(vectors, self.layout.vector_sizes, dim=-1)
            predicted.update(zip(self.layout.vectors, split, strict=True))
        return predicted

    def loss(
        self, deter: Tensor, stoch: Tensor, prepared: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Squared errors by key, summed over an observation and averaged over the N states.

        Args:
            deter: ``(N, D)``.
            stoch: ``(N, F)``.
            prepared: True observations from ``ObsLayout.prepare``, with N in all.
        """
        losses = {}
        for key, predicted in self(deter, stoch).items():
            target = prepared[key].reshape(predicted.shape)
            losses[key] = F.mse_loss(predicted, target, reduction="sum") / len(deter)
        return losses

    def to_obs(self, predicted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions as observations: images unchanged, vectors in their own unit and shape."""
        obs = {key: predicted[key] for key in self.layout.images}
        for key, shape in zip(self.layout.vectors, self.layout.vector_shapes, strict=True):
            obs[key] = torch.unflatten(symexp(predicted[key]), -1, shape)
        return obs
