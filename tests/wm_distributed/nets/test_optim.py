import copy

import pytest
import torch
from torch import Tensor, nn

from wm_distributed.collective import Collective
from wm_distributed.nets.config import OptimConfig
from wm_distributed.nets.optim import FlatOptimizer


def laprop_by_hand(
    params: list[Tensor], gradients: list[list[Tensor]], config: OptimConfig
) -> list[Tensor]:
    """LaProp with AGC, tensor by tensor and in double precision."""
    params = [param.double().clone() for param in params]
    square = [torch.zeros_like(param) for param in params]
    momentum = [torch.zeros_like(param) for param in params]
    for step, grads in enumerate(gradients, start=1):
        lr = config.lr * min(1.0, (step - 1) / config.warmup_steps)
        for index, grad in enumerate(grad.double() for grad in grads):
            limit = 0.3 * max(1e-3, params[index].norm().item())
            grad = grad / max(1.0, grad.norm().item() / limit)
            square[index] = 0.999 * square[index] + 0.001 * grad**2
            normalised = grad / ((square[index] / (1 - 0.999**step)).sqrt() + 1e-20)
            momentum[index] = 0.9 * momentum[index] + 0.1 * normalised
            params[index] = params[index] - lr * momentum[index] / (1 - 0.9**step)
    return params


def test_laprop_equals_the_algorithm_written_out() -> None:
    config = OptimConfig(lr=0.01, warmup_steps=3)
    params = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(0.01 * torch.randn(5))]
    start = [param.detach().clone() for param in params]
    optimizer = FlatOptimizer(params, config, Collective())
    gradients = [[torch.randn_like(param) * 3.0 for param in params] for _ in range(6)]
    for grads in gradients:
        optimizer.zero_grad()
        sum((p * g).sum() for p, g in zip(params, grads, strict=True)).backward()
        optimizer.step()
    for found, expected in zip(params, laprop_by_hand(start, gradients, config), strict=True):
        torch.testing.assert_close(found.detach().double(), expected, rtol=1e-4, atol=1e-6)


def test_adam_equals_the_one_of_torch() -> None:
    config = OptimConfig(
        kind="adam", lr=0.01, warmup_steps=0, eps=1e-5, agc=None, clip_norm=1.0, weight_decay=0.1
    )
    model = nn.Linear(4, 3)
    twin = copy.deepcopy(model)
    optimizer = FlatOptimizer(model.parameters(), config, Collective())
    reference = torch.optim.AdamW(twin.parameters(), lr=0.01, eps=1e-5, weight_decay=0.1)
    for _ in range(5):
        x = torch.randn(8, 4)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        reference.zero_grad()
        twin(x).square().sum().backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        reference.step()
    torch.testing.assert_close(model.weight, twin.weight)
    torch.testing.assert_close(model.bias, twin.bias)


def test_parameters_without_decay_are_trained_like_the_others() -> None:
    config = OptimConfig(kind="adam", lr=0.1, warmup_steps=0, agc=None, weight_decay=1.0)
    decayed, kept = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = FlatOptimizer([decayed], config, Collective(), undecayed=[kept])
    optimizer.step()
    torch.testing.assert_close(decayed.detach(), torch.full((3,), 0.9))
    assert torch.equal(kept, torch.ones(3))
    (decayed.sum() + kept.sum()).backward()
    optimizer.step()
    assert (kept < 1.0).all()


def test_the_first_step_of_a_warmup_changes_nothing() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    optimizer = FlatOptimizer(layer.parameters(), OptimConfig(warmup_steps=10), Collective())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight, before)


def test_the_learning_rate_falls_to_a_tenth_after_the_warmup() -> None:
    layer = nn.Linear(1, 1, bias=False)
    config = OptimConfig(
        kind="adam", lr=1.0, warmup_steps=2, decay_steps=4, agc=None, eps=1e-8, beta1=0.0, beta2=0.0
    )
    optimizer = FlatOptimizer(layer.parameters(), config, Collective())
    rates = []
    for _ in range(8):
        optimizer.grad.fill_(3.0)  # whose size Adam takes away
        rates.append(float(optimizer.step()["update_norm"]))
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.775, 0.55, 0.325, 0.1, 0.1])


def test_a_parameter_without_gradient_stays() -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    optimizer = FlatOptimizer(params, OptimConfig(warmup_steps=0, lr=0.1), Collective())
    params[0].sum().backward()
    optimizer.step()
    assert params[1].tolist() == [1.0, 1.0]
    assert params[0].tolist() == pytest.approx([0.9, 0.9])


def test_parameters_live_in_one_buffer() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = FlatOptimizer(model.parameters(), OptimConfig(), Collective())
    optimizer.flat.fill_(7.0)
    assert all(param.eq(7.0).all() for param in model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    assert optimizer.grad.abs().sum() > 0
    optimizer.zero_grad()
    assert all(param.grad is not None and param.grad.eq(0.0).all() for param in model.parameters())


def test_gradients_are_averaged_over_ranks() -> None:
    class Halving(Collective):
        def mean_(self, tensor: Tensor) -> Tensor:
            return tensor.mul_(0.5)

    config = OptimConfig(kind="adam", agc=None, warmup_steps=0)
    layer = nn.Linear(2, 1, bias=False)
    optimizer = FlatOptimizer(layer.parameters(), config, Halving())
    layer(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert optimizer.step()["grad_norm"].item() == pytest.approx(2.5)


def test_training_goes_on_identically_after_a_restore() -> None:
    def run(layer: nn.Linear, optimizer: FlatOptimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            layer(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()

    config = OptimConfig(lr=0.01, warmup_steps=5)
    layer = nn.Linear(3, 2)
    optimizer = FlatOptimizer(layer.parameters(), config, Collective())
    run(layer, optimizer, range(4))
    twin = copy.deepcopy(layer)
    state = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    run(layer, optimizer, range(4, 8))
    restored = FlatOptimizer(twin.parameters(), config, Collective())
    restored.load_state_dict(state)
    run(twin, restored, range(4, 8))
    assert torch.equal(layer.weight, twin.weight)
