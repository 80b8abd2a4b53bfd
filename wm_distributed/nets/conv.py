"""Convolutional stages that halve and double the resolution of images.

Images are ``(N, C, H, W)`` in ``channels_last`` memory, which is how they come from replay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.nets.config import ActName, NormName
from wm_distributed.nets.layers import NormAct, init_weight_

_KERNEL = 5
# Which of the 3 low-resolution taps each of the 5 taps falls on, after nearest upsampling by two,
# for even and odd output positions.
_TAPS = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2]])


class ChannelNormAct(NormAct):
    """Normalisation over the channels of each pixel, then the activation."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvPool(nn.Module):
    """5×5 convolution, maximum over 2×2 pixels, normalisation, activation: half the resolution."""

    def __init__(self, num_in: int, num_out: int, norm: NormName, act: ActName) -> None:
        """Builds the stage."""
        super().__init__()
        self.weight, self.bias = _conv_parameters(num_in, num_out)
        self.norm_act = ChannelNormAct(num_out, norm, act)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, padding=_KERNEL // 2)
        out: Tensor = self.norm_act(F.max_pool2d(x, 2))
        return out


class UpsampleConv(nn.Module):
    """Nearest upsampling by two, then a 5×5 convolution: twice the resolution.

    Each output pixel sees only 3×3 different input pixels. So the kernel is folded into four 3×3
    kernels, one for each position in a 2×2 cell, which are applied at the low resolution: the same
    result with 36 instead of 100 multiplications for each input pixel and pair of channels.
    """

    _fold: Tensor

    def __init__(self, num_in: int, num_out: int) -> None:
        """Builds the stage."""
        super().__init__()
        self.weight, self.bias = _conv_parameters(num_in, num_out)
        self.register_buffer("_fold", F.one_hot(_TAPS, 3).float(), persistent=False)  # (2, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.einsum("oiyx,pya,qxb->pqoiab", self.weight, self._fold, self._fold)
        x = F.conv2d(x, weight.flatten(0, 2), self.bias.repeat(4), padding=1)
        # (N, p q C, H, W) to (N, C, H p, W q), moving pieces that are contiguous in memory:
        # a third of the time of F.pixel_shuffle.
        num, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(num, height, width, 2, channels // 2).transpose(2, 3)
        pixels = rows.reshape(num, 2 * height, 2 * width, channels // 4)
        return pixels.permute(0, 3, 1, 2)


def _conv_parameters(num_in: int, num_out: int) -> tuple[nn.Parameter, nn.Parameter]:
    weight = torch.empty(num_out, num_in, _KERNEL, _KERNEL)
    init_weight_(weight, num_in * _KERNEL * _KERNEL)
    return nn.Parameter(weight), nn.Parameter(torch.zeros(num_out))
