"""Trains V and M, each in a phase and with an optimiser of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wm_distributed.api import EnvSpaces, Report, TrainContext, TrainOutput
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models import losses
from wm_distributed.families.world_models.config import (
    ENCODE,
    LOG_VAR,
    MEAN,
    MEMORY,
    VISION,
    WorldModelsConfig,
)
from wm_distributed.families.world_models.losses import Terms
from wm_distributed.families.world_models.model import WorldModel, check_spaces
from wm_distributed.families.world_models.report import memory_report, vision_report
from wm_distributed.families.world_models.vision import to_pixels
from wm_distributed.micro_batches import join_outputs
from wm_distributed.nets.loading import load_model
from wm_distributed.nets.optim import FlatOptimizer
from wm_distributed.types import Array, TensorBatch
from wm_distributed.weights import pack_weights


class WorldModelsTrainable:
    """V and M with their optimisers, and C's parameters as the search has found them."""

    def __init__(
        self, config: WorldModelsConfig, env_spaces: EnvSpaces, context: TrainContext
    ) -> None:
        """Builds the networks; equal seeds give equal parameters on all ranks.

        Raises:
            ConfigError: The networks cannot serve the spaces.
        """
        check_spaces(config, env_spaces)
        self.config = config
        self._context = context
        self._device = torch.device(context.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.model = WorldModel(config, env_spaces).to(self._device)
        if context.compile:  # V's networks; M's loop over time would take minutes to compile
            for module in (self.model.acting.encoder, self.model.decoder):
                module.compile(dynamic=False)
        acting, collective = self.model.acting, context.collective
        vision = [*acting.encoder.parameters(), *self.model.decoder.parameters()]
        self._optimizers = {
            VISION: FlatOptimizer(vision, config.vision.optim, collective),
            MEMORY: FlatOptimizer(acting.memory.parameters(), config.memory.optim, collective),
        }
        self._generator = torch.Generator(self._device)
        self._generator.manual_seed(context.seed * 1_000_003 + collective.rank)

    def init_train(self, phase: str, batch_size: int) -> None:
        """Nothing is carried from batch to batch: M starts each sequence from zeros."""
        if phase != ENCODE:
            self._check_phase(phase)

    def train_step(self, phase: str, carry: None, batch: TensorBatch) -> tuple[None, TrainOutput]:
        if phase == ENCODE:
            return None, self._encode(batch)
        self._check_phase(phase)
        optimizer, num_parts = self._optimizers[phase], self._context.micro_batches
        optimizer.zero_grad()
        batch_size, length = batch.shape
        trained = length - batch.context if phase == VISION else length
        noise = self._normal(batch_size, trained).chunk(num_parts)
        parts = zip(batch.split(num_parts), noise, strict=True)
        output = join_outputs([self._accumulate(phase, *part) for part in parts])
        metrics = {**output.metrics, **optimizer.step()}
        return None, TrainOutput({f"{phase}_{name}": value for name, value in metrics.items()})

    def _accumulate(self, phase: str, batch: TensorBatch, noise: Tensor) -> TrainOutput:
        """Adds a part's share of the batch's gradient."""
        losses = self._vision if phase == VISION else self._memory
        terms, metrics = losses(batch, noise)
        loss = torch.stack(list(terms.values())).sum()
        (loss / self._context.micro_batches).backward()  # type: ignore[no-untyped-call]
        named = {f"loss_{name}": term.detach() for name, term in terms.items()}
        return TrainOutput({**named, **metrics, "loss": loss.detach()})

    @torch.no_grad()
    def _encode(self, batch: TensorBatch) -> TrainOutput:
        """What V makes of the frames, for replay."""
        images = batch.obs()[self.model.acting.image_key]
        means = self.model.acting.encoder(to_pixels(images))
        columns = (torch.unflatten(column, 0, images.shape[:2]) for column in means)
        return TrainOutput({}, dict(zip((MEAN, LOG_VAR), columns, strict=True)))

    def _vision(self, batch: TensorBatch, noise: Tensor) -> tuple[Terms, Terms]:
        trained = batch.obs()[self.model.acting.image_key][:, batch.context :]
        pixels = to_pixels(trained)
        low_precision = self._context.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=low_precision):
            return losses.vision_losses(self.model, self.config.vision, pixels, noise.flatten(0, 1))

    def _memory(self, batch: TensorBatch, noise: Tensor) -> tuple[Terms, Terms]:
        return losses.memory_losses(self.model.acting, self.config.memory, batch, noise)

    def _normal(self, *shape: int) -> Tensor:
        size = self.config.vision.latent_size
        return torch.randn(*shape, size, device=self._device, generator=self._generator)

    @torch.no_grad()
    def report(self, phase: str, batch: TensorBatch) -> Report:
        self._check_phase(phase)
        report = vision_report if phase == VISION else memory_report
        return report(self.model, self.config, batch)

    def controller(self) -> Array:
        """The controller's parameters, ``float32 (num_parameters,)``; zeros before the search."""
        return self.model.acting.controller_parameters.cpu().numpy().copy()

    def set_controller(self, parameters: Array) -> None:
        """Takes over what the search has found.

        Raises:
            ConfigError: The vector has another size.
        """
        acting = self.model.acting
        acting.controller_parameters.copy_(acting.controller.to_tensor(parameters))

    def policy_weights(self) -> Array:
        return pack_weights(self.model.acting.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {
            "family": "world_models",
            "model": self.model.state_dict(),
            "optimizers": {name: opt.state_dict() for name, opt in self._optimizers.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_model(self.model, state, "world_models")
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._generator.set_state(state["generator"])

    def take_over(self, other: WorldModelsTrainable) -> None:
        """V and M of an earlier run, with their optimisers; C only if it was configured the same.

        Raises:
            CheckpointError: V or M is of another size.
        """
        state = other.state_dict()
        if other.config.controller != self.config.controller:
            state["model"]["acting.controller_parameters"] = self.model.acting.controller_parameters
        self.load_state_dict(state)

    def _check_phase(self, phase: str) -> None:
        if phase not in self._optimizers:
            raise ConfigError(f"expected phase {VISION!r} or {MEMORY!r}, got {phase!r}")
