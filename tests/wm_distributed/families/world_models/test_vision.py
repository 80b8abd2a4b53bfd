import pytest
import torch
from torch import nn

from wm_distributed.families.world_models.vision import (
    Decoder,
    Encoder,
    sample_latent,
    to_pixels,
)


def count(*modules: nn.Module) -> int:
    return sum(param.numel() for module in modules for param in module.parameters())


@pytest.mark.parametrize(("latent_size", "expected"), [(32, 4_348_547), (64, 4_446_915)])
def test_the_autoencoder_has_as_many_parameters_as_the_papers(
    latent_size: int, expected: int
) -> None:
    assert count(Encoder(latent_size), Decoder(latent_size)) == expected


def test_frames_become_latents_and_latents_become_frames() -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    mean, log_var = Encoder(5)(to_pixels(images))
    assert mean.shape == log_var.shape == (6, 5)
    frames = Decoder(5)(mean)
    assert frames.shape == (6, 3, 64, 64)
    assert 0 <= frames.min() <= frames.max() <= 1


def test_pixels_are_bytes_over_255_with_channels_in_front() -> None:
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    images[0, 10, 20, 1] = 51
    pixels = to_pixels(images)
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, 1, 10, 20] == pytest.approx(0.2)
    assert pixels.sum() == pytest.approx(0.2)


def test_the_last_convolution_equals_torchs_and_so_do_its_gradients() -> None:
    ours = Encoder(4).conv[6]
    theirs = nn.Conv2d(128, 256, 4, stride=2)
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(3, 128, 6, 6)
    results = []
    for layer in (ours, theirs):
        inputs = maps.clone().requires_grad_()
        outputs = layer(inputs)
        outputs.square().sum().backward()
        results.append([outputs, inputs.grad, layer.weight.grad, layer.bias.grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_the_first_deconvolution_equals_torchs() -> None:
    decoder = Decoder(4)
    latent = torch.randn(3, 4)
    one_pixel = decoder.linear(latent)[:, :, None, None]
    torch.testing.assert_close(decoder(latent), decoder.rest(decoder.first(one_pixel)))


def test_latents_are_drawn_with_the_standard_deviation() -> None:
    mean, log_var = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 2.0]) * torch.log(torch.tensor(3))
    drawn = sample_latent(mean, log_var, torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(drawn, torch.tensor([1.5, -5.0]))
