import torch
import torch.nn.functional as F

from wm_distributed.nets.conv import ConvPool, UpsampleConv


def test_folded_upsampling_equals_upsampling_then_convolving() -> None:
    stage = UpsampleConv(6, 4)
    torch.nn.init.normal_(stage.bias)
    x = torch.randn(2, 6, 5, 7).to(memory_format=torch.channels_last)
    upsampled = F.interpolate(x, scale_factor=2, mode="nearest")
    expected = F.conv2d(upsampled, stage.weight, stage.bias, padding=2)
    torch.testing.assert_close(stage(x), expected, rtol=1e-4, atol=1e-5)


def test_the_folded_gradient_reaches_the_five_by_five_kernel() -> None:
    stage = UpsampleConv(3, 2)
    x = torch.randn(2, 3, 4, 4)
    upsampled = F.interpolate(x, scale_factor=2, mode="nearest")
    expected = F.conv2d(upsampled, stage.weight, stage.bias, padding=2)
    weight = torch.randn_like(expected)
    params = [stage.weight, stage.bias]
    found = torch.autograd.grad((stage(x) * weight).sum(), params)
    for grad, reference in zip(
        found, torch.autograd.grad((expected * weight).sum(), params), strict=True
    ):
        torch.testing.assert_close(grad, reference, rtol=1e-4, atol=1e-4)


def test_a_pooling_stage_halves_the_resolution_and_keeps_the_memory_format() -> None:
    x = torch.randn(2, 3, 8, 12).to(memory_format=torch.channels_last)
    out = ConvPool(3, 5, "rms", "silu")(x)
    assert out.shape == (2, 5, 4, 6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_pooling_stage_normalises_the_channels_of_each_pixel() -> None:
    stage = ConvPool(3, 5, "rms", "silu")
    x = torch.randn(1, 3, 8, 8)
    pooled = F.max_pool2d(F.conv2d(x, stage.weight, stage.bias, padding=2), 2)
    normed = pooled / (pooled.square().mean(1, keepdim=True) + 1e-4).sqrt()
    torch.testing.assert_close(stage(x), F.silu(normed))
