"""The tokenizer: a frame is a grid of K tokens, and tokens are a frame."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wm_distributed.families.iris.autoencoder import Decoder, Encoder, PatchDecoder, PatchEncoder
from wm_distributed.families.iris.codebook import Codebook, Quantized, perplexity
from wm_distributed.families.iris.config import TokenizerConfig
from wm_distributed.families.iris.perceptual import PerceptualLoss
from wm_distributed.families.iris.steps import psnr_db


class Reconstruction(NamedTuple):
    """Frames as tokens and back."""

    pixels: Tensor
    """``(N, 3, H, W)``, near [0, 1]."""
    quantized: Quantized
    vectors: Tensor
    """``(N · K, D)``, what was quantised."""


class Tokenizer(nn.Module):
    """A discrete autoencoder of square frames.

    Source: Micheli et al. (2023), section 2.1 and appendix A.1.
    """

    def __init__(self, config: TokenizerConfig, image_size: int) -> None:
        """Builds the networks; ``image_size`` is a multiple of the patch."""
        super().__init__()
        self.vocabulary = config.vocabulary
        self.grid = image_size // config.patch
        self.num_tokens = self.grid**2
        self.patch = config.patch
        self.codebook = Codebook(config)
        self.encoder: nn.Module
        self.decoder: nn.Module
        if config.networks == "patch":
            self.encoder, self.decoder = PatchEncoder(config), PatchDecoder(config)
        else:
            self.encoder, self.decoder = Encoder(config, image_size), Decoder(config, image_size)

    def forward(self, pixels: Tensor) -> Reconstruction:
        """Tokens and reconstruction of frames ``(N, 3, H, W)`` in [0, 1], with gradients."""
        vectors = self._vectors(pixels)
        quantized = self.codebook(vectors)
        return Reconstruction(self._decode_codes(quantized.straight), quantized, vectors)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Tokens ``int64 (…, K)`` of frames ``(…, 3, H, W)`` in [0, 1], row by row."""
        tokens: Tensor = self.codebook.nearest(self._vectors(pixels.flatten(0, -4)))
        return torch.unflatten(tokens, 0, (*pixels.shape[:-3], self.num_tokens))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Frames ``(…, 3, H, W)`` in [0, 1] of tokens ``(…, K)``."""
        pixels = self._decode_codes(self.codebook.codes[tokens.flatten()]).float()
        return pixels.clamp(0.0, 1.0).reshape(*tokens.shape[:-1], *pixels.shape[1:])

    def _vectors(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.encoder(
            pixels
        ).float()  # (N, D, h, w): distances need all the digits
        return features.permute(0, 2, 3, 1).flatten(0, 2)

    def _decode_codes(self, codes: Tensor) -> Tensor:
        """Frames ``(N, 3, H, W)`` of codes ``(N · K, D)``."""
        grid = codes.reshape(-1, self.grid, self.grid, codes.shape[-1])
        out: Tensor = self.decoder(grid.permute(0, 3, 1, 2))
        return out


def identical_share(first: Tensor, second: Tensor, tokens: Tensor, others: Tensor) -> float | None:
    """Share of patches, pixel by pixel the same in two frames, whose tokens are the same too.

    Args:
        first: Frames ``(N, 3, H, W)``.
        second: The frames that they are compared with.
        tokens: Of the first, ``(N, K)``.
        others: Of the second.

    Returns:
        The share; None where no patch is the same, so that there is nothing to be told.
    """
    patches = round(first.shape[-1] / tokens.shape[-1] ** 0.5)
    differs = (first != second).any(dim=1, keepdim=True).float()
    same = F.max_pool2d(differs, patches).flatten(1) == 0  # (N, K)
    return float((tokens == others)[same].float().mean()) if same.any() else None


def tokenizer_losses(
    tokenizer: Tokenizer,
    pixels: Tensor,
    reconstruction: Reconstruction,
    pixel_loss: Literal["absolute", "squared"],
    perceptual: PerceptualLoss | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Error of the pixels, the codebook's loss and the perceptual one, and figures.

    Args:
        tokenizer: Whose reconstruction it is.
        pixels: Frames ``(N, 3, H, W)`` in [0, 1].
        reconstruction: Of these frames.
        pixel_loss: How pixels are compared.
        perceptual: The perceptual loss, if it is used.
    """
    predicted, tokens = reconstruction.pixels.float(), reconstruction.quantized.tokens
    compare = F.l1_loss if pixel_loss == "absolute" else F.mse_loss
    losses = {
        # Compared as inside the networks, where pixels are in [−1, 1].
        "reconstruction": compare(2.0 * predicted, 2.0 * pixels),
        "codebook": reconstruction.quantized.loss,
    }
    if perceptual is not None:
        losses["perceptual"] = perceptual(predicted, pixels)
    figures = {
        "psnr_db": psnr_db(predicted.detach().clamp(0.0, 1.0), pixels),
        "perplexity": perplexity(tokens, tokenizer.vocabulary),
    }
    return losses, figures
