import math

import pytest
import torch
import torch.nn.functional as F

from wm_distributed.nets.layers import MLP, BlockLinear, Linear, NormAct, init_weight_


def test_initial_weights_are_truncated_and_scaled_by_the_inputs() -> None:
    weight = init_weight_(torch.empty(400, 250), fan_in=250)
    assert weight.std().item() == pytest.approx(1.0 / math.sqrt(250), rel=0.02)
    assert weight.abs().max().item() <= 2.0 * 1.1368 / math.sqrt(250) + 1e-6


def test_a_linear_layer_starts_without_bias_and_with_its_scale() -> None:
    assert Linear(8, 4).bias.abs().sum() == 0.0
    assert Linear(8, 4, scale=0.0).weight.abs().sum() == 0.0


def test_block_linear_equals_one_linear_layer_a_block() -> None:
    layer = BlockLinear(12, 8, num_blocks=4)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(5, 12)
    parts = [
        x[:, 3 * block : 3 * block + 3] @ layer.weight[block] + layer.bias[block]
        for block in range(4)
    ]
    torch.testing.assert_close(layer(x), torch.stack(parts))


def test_block_linear_is_initialised_for_the_whole_input() -> None:
    weight = BlockLinear(512, 1024, num_blocks=8).weight
    assert weight.shape == (8, 64, 128)
    assert weight.std().item() == pytest.approx(1.0 / math.sqrt(512), rel=0.02)


def test_rms_norm_and_silu_equal_the_formula_and_its_gradient() -> None:
    layer = NormAct(6, "rms", "silu")
    torch.nn.init.normal_(layer.scale)
    x = torch.randn(3, 4, 6, requires_grad=True)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt() * layer.scale
    expected = normed * torch.sigmoid(normed)
    found = layer(x)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    inputs = [x, layer.scale]
    for grad, reference in zip(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(grad, reference)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_norms_keep_low_precision_inputs_but_compute_in_float32(norm: str) -> None:
    layer = NormAct(64, norm, "silu")  # type: ignore[arg-type]
    x = 1e-3 * torch.randn(10, 64)
    found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x.bfloat16().float()), atol=0.02, rtol=0.02)


def test_without_norm_only_the_activation_is_left() -> None:
    x = torch.randn(3, 5)
    assert torch.equal(NormAct(5, "none", "elu")(x), F.elu(x))
    assert not list(NormAct(5, "none", "elu").parameters())


def test_a_perceptron_has_as_many_layers_as_asked() -> None:
    mlp = MLP(10, 6, 3, "rms", "silu")
    assert mlp(torch.randn(2, 7, 10)).shape == (2, 7, 6)
    assert sum(isinstance(module, Linear) for module in mlp) == 3
