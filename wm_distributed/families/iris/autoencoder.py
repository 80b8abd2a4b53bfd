"""Encoders and decoder of the tokenizer.

Source: Micheli et al., "Transformers are Sample-Efficient World Models" (ICLR 2023), appendix A,
    which takes the architecture of Esser et al., "Taming Transformers for High-Resolution Image
    Synthesis" (CVPR 2021), without its discriminator.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.iris.config import TokenizerConfig
from wm_distributed.nets.layers import init_weight_


class Encoder(nn.Sequential):
    """Frames ``(N, 3, H, W)`` in [0, 1] to features ``(N, width, H / patch, W / patch)``."""

    def __init__(self, config: TokenizerConfig, image_size: int) -> None:
        """Builds the network for square frames."""
        depths = _depths(config)
        size = image_size
        layers: list[nn.Module] = [_Centre(), _conv(3, depths[0])]
        for num_in, num_out in pairwise([depths[0], *depths]):
            if len(layers) > 2:
                layers.append(_Downsample(num_in))
                size //= 2
            layers += _stage(config, num_in, num_out, size, config.res_blocks)
        layers += [*_middle(depths[-1]), _Norm(depths[-1]), nn.SiLU()]
        super().__init__(
            *layers, _conv(depths[-1], config.width), nn.Conv2d(config.width, config.width, 1)
        )


class PatchEncoder(nn.Sequential):
    """Frames to features, where each depends on the pixels of its own patch alone."""

    def __init__(self, config: TokenizerConfig) -> None:
        """Builds the network; frames may have any size that patches fill."""
        hidden = 4 * config.channels
        super().__init__(
            _Centre(),
            _PatchConv(3, hidden, config.patch, stride=config.patch),
            nn.SiLU(),
            _PatchConv(hidden, hidden, 1),
            nn.SiLU(),
            _PatchConv(hidden, config.width, 1),
            _PixelNorm(),
        )


class PatchDecoder(nn.Sequential):
    """Codes to frames, where the pixels of each patch depend on its own code alone."""

    def __init__(self, config: TokenizerConfig) -> None:
        """Builds the network."""
        hidden = 4 * config.channels
        super().__init__(
            _PatchConv(config.width, hidden, 1),
            nn.SiLU(),
            _PatchConv(hidden, hidden, 1),
            nn.SiLU(),
            _PatchConv(hidden, 3 * config.patch**2, 1),
            nn.PixelShuffle(config.patch),
            _Uncentre(),
        )


class Decoder(nn.Sequential):
    """Codes ``(N, width, h, w)`` to frames ``(N, 3, h · patch, w · patch)``, near [0, 1]."""

    def __init__(self, config: TokenizerConfig, image_size: int) -> None:
        """Builds the network for square frames."""
        depths = _depths(config)[::-1]
        size = image_size // config.patch
        layers: list[nn.Module] = [
            nn.Conv2d(config.width, config.width, 1),
            _conv(config.width, depths[0]),
            *_middle(depths[0]),
        ]
        for level, (num_in, num_out) in enumerate(pairwise([depths[0], *depths])):
            if level:
                layers += [nn.Upsample(scale_factor=2), _conv(num_in, num_in)]
                size *= 2
            layers += _stage(config, num_in, num_out, size, config.res_blocks + 1)
        super().__init__(*layers, _Norm(depths[-1]), nn.SiLU(), _conv(depths[-1], 3), _Uncentre())


class _ResBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _Norm(num_in), nn.SiLU(), _conv(num_in, num_out),
            _Norm(num_out), nn.SiLU(), _conv(num_out, num_out),
        )  # fmt: skip
        self.skip = nn.Identity() if num_in == num_out else nn.Conv2d(num_in, num_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.body(x)
        return out


class _Attention(nn.Module):
    """Self-attention over the pixels of a feature map, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _Norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)  # (N, h w, 3 C)
        mixed = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        out: Tensor = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return out


class _Downsample(nn.Module):
    """Strided convolution, padded to the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class _Norm(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels, eps=1e-6)


class _PatchConv(nn.Conv2d):
    """Starts without biases and with weights that keep the signal's size.

    Torch's own would let what patches have in common drown what tells them apart.
    """

    def reset_parameters(self) -> None:
        init_weight_(self.weight, self.weight[0].numel(), scale=math.sqrt(2.0))
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class _PixelNorm(nn.Module):
    """Normalises over the channels of each pixel, so that no feature can shrink to nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)


class _Centre(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return 2.0 * pixels - 1.0


class _Uncentre(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1.0) / 2.0


def _depths(config: TokenizerConfig) -> list[int]:
    return [config.channels * multiple for multiple in config.multiples]


def _conv(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=1)


def _stage(
    config: TokenizerConfig, num_in: int, num_out: int, size: int, num_blocks: int
) -> list[nn.Module]:
    """Residual blocks at one resolution, each followed by attention where that is asked for."""
    layers: list[nn.Module] = []
    for index in range(num_blocks):
        layers.append(_ResBlock(num_out if index else num_in, num_out))
        if size in config.attention_at:
            layers.append(_Attention(num_out))
    return layers


def _middle(channels: int) -> list[nn.Module]:
    return [_ResBlock(channels, channels), _Attention(channels), _ResBlock(channels, channels)]
