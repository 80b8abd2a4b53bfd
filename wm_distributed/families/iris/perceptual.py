"""The perceptual loss: frames compared by the features of an image classifier.

Its weights are not part of this project and nothing is downloaded: whoever has the file of VGG16's
weights as torchvision saves them (``vgg16-397923af.pth``) names it in the configuration.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.errors import ConfigError
from wm_distributed.families.iris.config import TokenizerConfig

_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of VGG16's convolutions in its file, by stage; between stages the size is halved."""
_CHANNELS = (64, 128, 256, 512, 512)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as it was trained


class PerceptualLoss(nn.Module):
    """Mean squared distance of normalised features of VGG16, summed over its five stages.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
        (CVPR 2018), equation 1, with equal weights for all channels instead of learned ones.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """Takes the convolutions' weights by their names in torchvision's file."""
        super().__init__()
        self.stages = nn.ModuleList()
        num_in = 3
        for numbers, num_out in zip(_STAGES, _CHANNELS, strict=True):
            stage = nn.ModuleList()
            for number in numbers:
                conv = nn.Conv2d(num_in, num_out, 3, padding=1)
                parts = ("weight", "bias")
                conv.load_state_dict({p: weights[f"features.{number}.{p}"] for p in parts})
                stage.append(conv)
                num_in = num_out
            self.stages.append(stage)
        self.register_buffer("_mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Scalar loss of frames ``(N, 3, H, W)`` in [0, 1]."""
        x = torch.cat([predicted, true]).sub(self.get_buffer("_mean")).div(self.get_buffer("_std"))
        loss = x.new_zeros(())
        for index, stage in enumerate(self.stages):
            if index:
                x = F.max_pool2d(x, 2)
            assert isinstance(stage, nn.ModuleList)
            for conv in stage:
                x = F.relu(conv(x))
            first, second = F.normalize(x, dim=1, eps=1e-10).chunk(2)
            loss = loss + (first - second).square().sum(1).mean()
        return loss


def load_perceptual_loss(config: TokenizerConfig) -> PerceptualLoss | None:
    """The loss from the configured file; None if there is none.

    Raises:
        ConfigError: The file is missing or damaged, or holds other weights.
    """
    if config.perceptual_weights is None:
        return None
    path = Path(config.perceptual_weights)
    where = f"model.tokenizer.perceptual_weights {path}"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever a damaged file makes of the reader
        raise ConfigError(f"{where} is damaged or no file of weights") from error
    try:
        return PerceptualLoss(weights)
    except (RuntimeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{where}: expected the weights of VGG16 as torchvision saves them, got others: {error}"
        ) from error
