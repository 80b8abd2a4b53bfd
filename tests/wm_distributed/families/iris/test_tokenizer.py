from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from wm_distributed.families.iris.config import IrisConfig, TokenizerConfig
from wm_distributed.families.iris.tokenizer import Tokenizer, identical_share, tokenizer_losses
from wm_distributed.families.iris.trainable import IrisTrainable
from wm_distributed.types import TensorBatch

SMALL = TokenizerConfig(
    vocabulary=16, width=8, channels=4, multiples=(1, 1, 1), res_blocks=1, attention_at=()
)
PATCHES = replace(SMALL, networks="patch")


def test_a_frame_of_64_pixels_has_16_tokens_at_the_published_sizes() -> None:
    with torch.device("meta"):
        tokenizer = Tokenizer(TokenizerConfig(), 64)
    assert (tokenizer.num_tokens, tokenizer.vocabulary, tokenizer.patch) == (16, 512, 16)
    assert tuple(tokenizer.codebook.codes.shape) == (512, 512)


@pytest.mark.parametrize("config", [SMALL, PATCHES])
def test_tokens_stand_row_by_row_and_become_frames_again(config: TokenizerConfig) -> None:
    tokenizer = Tokenizer(config, 16)
    pixels = torch.rand(2, 3, 3, 16, 16)
    tokens = tokenizer.encode(pixels)
    assert tokens.shape == (2, 3, 16)
    assert tokenizer.decode(tokens).shape == pixels.shape
    frames = tokenizer(pixels.flatten(0, 1))
    torch.testing.assert_close(
        frames.pixels.detach().clamp(0, 1), tokenizer.decode(tokens).flatten(0, 1)
    )


def test_a_patch_s_token_depends_on_its_own_pixels_alone() -> None:
    tokenizer = Tokenizer(replace(PATCHES, vocabulary=64), 16)
    torch.nn.init.normal_(tokenizer.codebook.codes)
    pixels = torch.rand(1, 3, 16, 16).expand(50, 3, 16, 16).clone()
    pixels[:, :, 4:8, 8:12] = torch.rand(50, 3, 4, 4)  # second row, third patch
    changed = (tokenizer.encode(pixels) != tokenizer.encode(pixels[:1])).any(0)
    assert changed.nonzero().flatten().tolist() == [6]
    drawn = tokenizer.decode(tokenizer.encode(pixels))
    moved = (drawn != drawn[:1]).any(0).any(0)
    moved[4:8, 8:12] = False
    assert not moved.any()


def test_in_the_published_encoder_all_of_the_frame_matters_to_a_token() -> None:
    tokenizer = Tokenizer(replace(SMALL, attention_at=(4,)), 16)
    pixels = torch.rand(1, 3, 16, 16)
    changed = pixels.clone()
    changed[:, :, -1, -1] = 1.0 - changed[:, :, -1, -1]
    first, second = (tokenizer.encoder(frames)[0, :, 0, 0] for frames in (pixels, changed))
    assert not torch.equal(first, second)


def test_every_network_of_the_tokenizer_gets_a_gradient() -> None:
    tokenizer = Tokenizer(SMALL, 16)
    pixels = torch.rand(4, 3, 16, 16)
    losses, _ = tokenizer_losses(tokenizer, pixels, tokenizer(pixels), "absolute", None)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    for name, param in tokenizer.named_parameters():
        assert param.grad is not None, name
        assert param.grad.isfinite().all(), name
    reached = [bool(param.grad.any()) for param in tokenizer.encoder.parameters()]  # type: ignore
    assert all(reached), "straight through the codes"


def test_errors_are_those_of_pixels_between_minus_one_and_one() -> None:
    tokenizer = Tokenizer(PATCHES, 16)
    pixels = torch.zeros(1, 3, 16, 16)
    found = tokenizer(pixels)._replace(pixels=torch.full_like(pixels, 0.25))
    for kind, expected in (("absolute", 0.5), ("squared", 0.25)):
        losses, figures = tokenizer_losses(tokenizer, pixels, found, kind, None)  # type: ignore
        assert losses["reconstruction"].item() == pytest.approx(expected)
    assert figures["psnr_db"].item() == pytest.approx(12.04, abs=0.01)


def test_the_share_of_identical_patches_with_identical_tokens() -> None:
    first = torch.zeros(1, 3, 4, 4)
    second = first.clone()
    second[0, 1, 3, 3] = 1.0  # the last of four patches differs
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert identical_share(first, second, tokens, torch.tensor([[1, 2, 3, 9]])) == 1.0
    share = identical_share(first, second, tokens, torch.tensor([[1, 7, 3, 4]]))
    assert share == pytest.approx(2 / 3)
    assert identical_share(first, second, tokens, tokens + 5) == 0.0


def test_where_no_patch_is_the_same_there_is_no_share() -> None:
    first, tokens = torch.zeros(1, 3, 4, 4), torch.tensor([[1, 2, 3, 4]])
    for others in (tokens, tokens + 1):
        assert identical_share(first, 1.0 - first, tokens, others) is None


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_a_tokenizer_learns_to_draw_more_than_the_mean_frame(
    codebook: str,
    config: IrisConfig,
    build: Callable[[IrisConfig], IrisTrainable],
) -> None:
    """Four frames, one bright quarter each; an encoder that gets no gradient sees no difference."""
    tokenizer = replace(PATCHES, codebook=codebook, channels=8, pixel_loss="squared")
    tokenizer = replace(tokenizer, optim=replace(config.tokenizer.optim, lr=5e-3))
    images = torch.zeros(4, 1, 32, 32, 3, dtype=torch.uint8)
    for index in range(4):
        row, column = divmod(index, 2)
        images[index, 0, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 255
    trainable = build(replace(config, tokenizer=tokenizer))
    for _ in range(150):
        _, output = trainable.train_step("tokenizer", None, TensorBatch({"obs/image": images}))
    assert float(output.metrics["tokenizer_psnr_db"]) > 20.0  # the mean frame: 7.3
