"""LaProp and Adam over one flat buffer that holds all parameters of a module.

All parameters are views into one tensor, and so are their gradients. Clearing, averaging over
ranks and updating then are a few operations on two long vectors, whatever the number of layers;
nothing waits for the device, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from wm_distributed.collective import Collective
from wm_distributed.nets.config import OptimConfig

_MIN_PARAM_NORM = 1e-3
_LOWEST_RATE = 0.1
"""What is left of the learning rate after its decay."""


class FlatOptimizer:
    """Owns the parameters and gradients of some modules in two flat buffers, and updates them.

    Source: LaProp is Ziyin et al., "LaProp: Separating Momentum and Adaptivity in Adam" (2020);
        adaptive gradient clipping (AGC) is Brock et al., "High-Performance Large-Scale Image
        Recognition Without Normalization" (2021), here by whole tensors, as in DreamerV3's code.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        config: OptimConfig,
        collective: Collective,
        *,
        undecayed: Iterable[nn.Parameter] = (),
    ) -> None:
        """Moves the parameters into the flat buffer; they keep their values.

        Args:
            params: What to train; all on one device, float32.
            config: Hyperparameters.
            collective: Ranks over which gradients are averaged.
            undecayed: More to train, but without weight decay.
        """
        self._config = config
        self._collective = collective
        self._params = list(params)
        num_decayed = sum(param.numel() for param in self._params)
        self._params += undecayed
        self.flat = torch.cat([param.detach().flatten() for param in self._params])
        self.grad = torch.zeros_like(self.flat)
        self._param_views = views_of(self.flat, self._params)
        self._grad_views = views_of(self.grad, self._params)
        for param, view, grad in zip(
            self._params, self._param_views, self._grad_views, strict=True
        ):
            param.data = view
            param.grad = grad
        self._decayed = self.flat[:num_decayed]
        self._momentum = torch.zeros_like(self.flat)
        self._square = torch.zeros_like(self.flat)
        self._step = self.flat.new_zeros(())

    def zero_grad(self) -> None:
        """Clears the gradients."""
        self.grad.zero_()

    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        """Averages the gradients over the ranks and updates the parameters.

        Returns:
            The norms of the gradient before clipping and of the update.
        """
        self._average_gradients()
        grad_norm = self._norms([self.grad])[0]
        self._clip(grad_norm)
        before = self._step.clone()
        self._step += 1
        update = self._laprop() if self._config.kind == "laprop" else self._adam()
        lr = self._learning_rate(before)
        if self._config.weight_decay:
            self._decayed.mul_(1.0 - lr * self._config.weight_decay)
        update.mul_(lr)
        self.flat.sub_(update)
        return {"grad_norm": grad_norm, "update_norm": self._norms([update])[0]}

    def _average_gradients(self) -> None:
        self._collective.mean_(self.grad)

    def _norms(self, tensors: list[Tensor]) -> Tensor:
        """Euclidean norms ``(len(tensors),)``."""
        return torch.stack(torch._foreach_norm(tensors))

    def _learning_rate(self, step: Tensor) -> Tensor:
        """The rate after ``step`` updates, a scalar."""
        config = self._config
        risen = (step / config.warmup_steps if config.warmup_steps else step + 1.0).clamp_max(1.0)
        if not config.decay_steps:
            return risen * config.lr
        fallen = ((step - config.warmup_steps) / config.decay_steps).clamp(0.0, 1.0)
        return risen * config.lr * (1.0 - (1.0 - _LOWEST_RATE) * fallen)

    def _clip(self, grad_norm: Tensor) -> None:
        if self._config.agc is not None:
            limits = self._norms(self._param_views)
            limits = self._config.agc * limits.clamp_min(_MIN_PARAM_NORM)
            factors = 1.0 / (self._norms(self._grad_views) / limits).clamp_min(1.0)
            torch._foreach_mul_(self._grad_views, list(factors.unbind()))
        if self._config.clip_norm is not None:
            self.grad.mul_((self._config.clip_norm / (grad_norm + 1e-6)).clamp_max(1.0))
        if self._config.clip_value is not None:
            self.grad.clamp_(-self._config.clip_value, self._config.clip_value)

    def _laprop(self) -> Tensor:
        self._square.mul_(self._config.beta2).addcmul_(
            self.grad, self.grad, value=1.0 - self._config.beta2
        )
        root = (self._square / self._debias(self._config.beta2)).sqrt_().add_(self._config.eps)
        self._momentum.lerp_(self.grad / root, 1.0 - self._config.beta1)
        return self._momentum / self._debias(self._config.beta1)

    def _adam(self) -> Tensor:
        self._square.mul_(self._config.beta2).addcmul_(
            self.grad, self.grad, value=1.0 - self._config.beta2
        )
        root = (self._square / self._debias(self._config.beta2)).sqrt_().add_(self._config.eps)
        self._momentum.lerp_(self.grad, 1.0 - self._config.beta1)
        return self._momentum / self._debias(self._config.beta1) / root

    def _debias(self, beta: float) -> Tensor:
        return 1.0 - beta**self._step

    def state_dict(self) -> dict[str, Tensor]:
        """Statistics and the step count; the parameters belong to their modules."""
        return {"momentum": self._momentum, "square": self._square, "step": self._step}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict`; sizes must be equal."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def views_of(flat: Tensor, params: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat buffer that belong to each of some tensors, in their shapes."""
    parts = torch.split(flat, [param.numel() for param in params])
    return [part.view(param.shape) for part, param in zip(parts, params, strict=True)]
