"""Encodes dictionaries of images and vectors into one embedding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from wm_distributed.errors import ConfigError
from wm_distributed.nets.config import ActName, NormName
from wm_distributed.nets.conv import ConvPool
from wm_distributed.nets.layers import MLP
from wm_distributed.ops.twohot import symlog

_MIN_RESOLUTION, _MAX_RESOLUTION = 3, 16


class ObsLayout:
    """Which observations are images and which are vectors, in a fixed order."""

    def __init__(self, obs_spaces: Mapping[str, spaces.Box]) -> None:
        """Sorts the observations; images are ``uint8 (H, W, 3)``, all of one size.

        Raises:
            ConfigError: No observation, or images of several sizes.
        """
        self.images = sorted(key for key, space in obs_spaces.items() if is_image(space))
        self.vectors = sorted(set(obs_spaces) - set(self.images))
        self.vector_sizes = [math.prod(obs_spaces[key].shape) for key in self.vectors]
        self.vector_shapes = [obs_spaces[key].shape for key in self.vectors]
        self.channels = [obs_spaces[key].shape[-1] for key in self.images]
        resolutions = {obs_spaces[key].shape[:-1] for key in self.images}
        if not obs_spaces or len(resolutions) > 1:
            raise ConfigError(
                "expected observations with images of one size, got "
                f"{ {key: space.shape for key, space in obs_spaces.items()} }"
            )
        self.height, self.width = next(iter(resolutions), (0, 0))

    def low_resolution(self, num_stages: int) -> tuple[int, int]:
        """Height and width of images after so many halvings.

        Raises:
            ConfigError: They do not divide, or are not in 3..16, where the networks work well.
        """
        factor = 2**num_stages
        height, width = self.height // factor, self.width // factor
        exact = (height * factor, width * factor) == (self.height, self.width)
        if not exact or not all(_MIN_RESOLUTION <= n <= _MAX_RESOLUTION for n in (height, width)):
            raise ConfigError(
                f"images of {self.height}x{self.width} after {num_stages} halvings are "
                f"{height}x{width}, expected {_MIN_RESOLUTION}..{_MAX_RESOLUTION} each without "
                "remainder: change model.net.depth_multiples (one halving each) or env.image_size"
            )
        return height, width

    def prepare(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Observations as the networks see and predict them.

        Args:
            obs: Tensors by key, with any leading axes ``(…)``: images ``uint8 (…, H, W, C)``.

        Returns:
            Images in [0, 1], ``(N, C, H, W)`` in ``channels_last`` memory, where N is the product
            of the leading axes; vectors after symlog, ``(…, size)``.
        """
        prepared = {}
        for key in self.images:
            # One pass over the pixels: the product of uint8 and a float is float.
            prepared[key] = (obs[key].flatten(0, -4) * (1.0 / 255.0)).permute(0, 3, 1, 2)
        for key, shape in zip(self.vectors, self.vector_shapes, strict=True):
            leading = obs[key].shape[: obs[key].ndim - len(shape)]
            prepared[key] = symlog(obs[key].float().reshape(*leading, -1))
        return prepared


def is_image(space: spaces.Box) -> bool:
    """Whether a space holds images ``uint8 (H, W, C)``."""
    return space.dtype == np.uint8 and len(space.shape) == 3


class Encoder(nn.Module):
    """Convolutions for images, a perceptron for vectors, concatenated."""

    def __init__(
        self,
        layout: ObsLayout,
        *,
        units: int,
        vector_layers: int,
        depths: Sequence[int],
        norm: NormName,
        act: ActName,
    ) -> None:
        """Builds the networks.

        Args:
            layout: The observations.
            units: Units of the perceptron.
            vector_layers: Its layers.
            depths: Channels of each convolutional stage.
            norm: Normalisation.
            act: Activation.
        """
        super().__init__()
        self.layout = layout
        self.embed_size = 0
        if layout.images:
            channels = [sum(layout.channels), *depths]
            stages = [ConvPool(*pair, norm, act) for pair in itertools.pairwise(channels)]
            self.conv = nn.Sequential(*stages)
            self.embed_size += math.prod(layout.low_resolution(len(depths))) * depths[-1]
        if layout.vectors:
            self.mlp = MLP(sum(layout.vector_sizes), units, vector_layers, norm, act)
            self.embed_size += units

    def forward(self, prepared: Mapping[str, Tensor], *leading: int) -> Tensor:
        """Embeddings ``(*leading, embed_size)`` of :meth:`ObsLayout.prepare`'s result."""
        parts = []
        if self.layout.images:
            images = torch.cat([prepared[key] for key in self.layout.images], dim=1)
            parts.append(self.conv(images - 0.5).permute(0, 2, 3, 1).reshape(*leading, -1))
        if self.layout.vectors:
            vectors = torch.cat([prepared[key] for key in self.layout.vectors], dim=-1)
            parts.append(self.mlp(vectors))
        return torch.cat(parts, dim=-1)
