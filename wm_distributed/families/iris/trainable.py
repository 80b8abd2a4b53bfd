"""Trains tokenizer, world model and actor-critic, each in a phase with an optimiser of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces, Report, TrainContext, TrainOutput
from wm_distributed.errors import ConfigError
from wm_distributed.families.iris import report
from wm_distributed.families.iris.actor_critic import actor_critic_losses
from wm_distributed.families.iris.behavior import imagine
from wm_distributed.families.iris.config import (
    ACTOR_CRITIC,
    TOKENIZER,
    WORLD_MODEL,
    IrisConfig,
)
from wm_distributed.families.iris.model import IrisModel
from wm_distributed.families.iris.perceptual import PerceptualLoss, load_perceptual_loss
from wm_distributed.families.iris.steps import seed_from, to_pixels, transitions
from wm_distributed.families.iris.tokenizer import tokenizer_losses
from wm_distributed.families.iris.transformer import matrices
from wm_distributed.families.iris.world_model import world_model_losses
from wm_distributed.micro_batches import join_outputs
from wm_distributed.nets.loading import load_model
from wm_distributed.nets.optim import FlatOptimizer
from wm_distributed.types import Array, TensorBatch
from wm_distributed.weights import pack_weights, unpack_weights

_Losses = tuple[dict[str, Tensor], Mapping[str, Tensor | float]]


class IrisTrainable:
    """All networks with their optimisers, on one device."""

    def __init__(self, config: IrisConfig, env_spaces: EnvSpaces, context: TrainContext) -> None:
        """Builds the networks; equal seeds give equal parameters on all ranks.

        Raises:
            ConfigError: The networks cannot serve the spaces, or the file with the weights of the
                perceptual loss is of no use.
        """
        self.config = config
        self._context = context
        self._device = torch.device(context.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.model = IrisModel(config, env_spaces).to(self._device).eval()
        if context.compile:  # not the transformer, whose window grows with each imagined token
            for module in (
                self.model.acting.tokenizer.encoder,
                self.model.acting.tokenizer.decoder,
            ):
                module.compile()
        self._perceptual: PerceptualLoss | None = load_perceptual_loss(config.tokenizer)
        if self._perceptual is not None:
            self._perceptual.to(self._device)
        self._optimizers = self._make_optimizers()
        self._losses = {
            TOKENIZER: self._tokenizer,
            WORLD_MODEL: self._world_model,
            ACTOR_CRITIC: self._actor_critic,
        }
        self._quantized: list[tuple[Tensor, Tensor]] = []  # vectors and tokens, by micro-batch
        self._generator = torch.Generator(self._device)
        self._generator.manual_seed(context.seed * 1_000_003 + context.collective.rank)

    def _make_optimizers(self) -> dict[str, FlatOptimizer]:
        config, model, collective = self.config, self.model, self._context.collective
        world = model.world_model
        decayed = matrices(world)
        kept = {id(param) for param in decayed}
        others = [param for param in world.parameters() if id(param) not in kept]
        tokenizer = model.acting.tokenizer.parameters()
        actor_critic = [*model.acting.actor.parameters(), *model.value.parameters()]
        return {
            TOKENIZER: FlatOptimizer(tokenizer, config.tokenizer.optim, collective),
            WORLD_MODEL: FlatOptimizer(
                decayed, config.world_model.optim, collective, undecayed=others
            ),
            ACTOR_CRITIC: FlatOptimizer(actor_critic, config.actor_critic.optim, collective),
        }

    def init_train(self, phase: str, batch_size: int) -> None:
        """Nothing is carried from batch to batch: segments begin with nothing remembered."""
        self._check_phase(phase)

    def train_step(self, phase: str, carry: None, batch: TensorBatch) -> tuple[None, TrainOutput]:
        self._check_phase(phase)
        optimizer, begun = self._optimizers[phase], time.perf_counter()
        optimizer.zero_grad()
        with self._own_random_numbers():
            if phase == ACTOR_CRITIC:
                self._follow_frames(batch)
            parts = batch.split(self._context.micro_batches)
            output = join_outputs([self._accumulate(phase, part) for part in parts])
            self._follow_vectors()
        metrics = {**output.metrics, **optimizer.step()}
        metrics["step_seconds"] = time.perf_counter() - begun
        return None, TrainOutput({f"{phase}_{name}": value for name, value in metrics.items()})

    def _accumulate(self, phase: str, batch: TensorBatch) -> TrainOutput:
        """Adds a part's share of the batch's gradient."""
        with torch.autocast(
            self._device.type,
            torch.bfloat16,
            enabled=self._context.precision == "bfloat16",
        ):
            terms, figures = self._losses[phase](batch)
        loss = torch.stack(list(terms.values())).sum()
        (loss / self._context.micro_batches).backward()  # type: ignore[no-untyped-call]
        named = {f"loss_{name}": term.detach() for name, term in terms.items()}
        return TrainOutput({**figures, **named, "loss": loss.detach()})

    def _tokenizer(self, batch: TensorBatch) -> _Losses:
        tokenizer = self.model.acting.tokenizer
        pixels = to_pixels(self._images(batch).flatten(0, 1))
        reconstruction = tokenizer(pixels)
        if self.config.tokenizer.codebook == "ema":
            self._quantized.append(
                (reconstruction.vectors.detach(), reconstruction.quantized.tokens)
            )
        return tokenizer_losses(
            tokenizer, pixels, reconstruction, self.config.tokenizer.pixel_loss, self._perceptual
        )

    def _world_model(self, batch: TensorBatch) -> _Losses:
        model = self.model
        tokens = model.acting.tokenizer.encode(to_pixels(self._images(batch)))
        model.world_model.train()
        losses = world_model_losses(model.world_model, tokens, transitions(batch))
        model.world_model.eval()
        return losses

    def _actor_critic(self, batch: TensorBatch) -> _Losses:
        begun = time.perf_counter()
        trajectory = imagine(self.model, self.config, batch, self._generator)
        seconds = time.perf_counter() - begun  # on a GPU: until the last kernel is launched
        losses, figures = actor_critic_losses(self.config.actor_critic, trajectory)
        speed = {
            "imagined_frames_per_second": trajectory.action.numel() / seconds,
            "imagination_seconds": seconds * self._context.micro_batches,  # of the whole step
        }
        return losses, figures | speed

    def _follow_frames(self, batch: TensorBatch) -> None:
        """Lets the actor's standardisation take a whole batch into account."""
        if (standardize := self.model.acting.actor.standardize) is not None:
            standardize.follow(
                to_pixels(self._images(batch).flatten(0, 1)), self._context.collective
            )

    def _follow_vectors(self) -> None:
        """Lets a codebook of averages take what a whole batch was quantised from into account."""
        if self._quantized:
            vectors, tokens = map(torch.cat, zip(*self._quantized, strict=True))
            self._quantized.clear()
            self.model.acting.tokenizer.codebook.follow(vectors, tokens, self._context.collective)

    def _images(self, batch: TensorBatch) -> Tensor:
        return batch.obs()[self.model.acting.image_key]

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Lets dropout draw from this trainable's generator, which a checkpoint keeps."""
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(seed_from(self._generator))
            yield

    @torch.no_grad()
    def report(self, phase: str, batch: TensorBatch) -> Report:
        self._check_phase(phase)
        return report.REPORTS[phase](self.model, self.config, batch)

    def part_weights(self, phase: str) -> Array:
        return pack_weights(self._part(phase))

    def load_part(self, phase: str, buffer: Array) -> None:
        unpack_weights(buffer, self._part(phase))

    def _part(self, phase: str) -> dict[str, Tensor]:
        """The state of the networks that a phase trains."""
        self._check_phase(phase)
        model = self.model
        networks: dict[str, list[nn.Module]] = {
            TOKENIZER: [model.acting.tokenizer],
            WORLD_MODEL: [model.world_model],
            ACTOR_CRITIC: [model.acting.actor, model.value],
        }
        return nn.ModuleList(networks[phase]).state_dict()

    def policy_weights(self) -> Array:
        return pack_weights(self.model.acting.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {
            "family": "iris",
            "model": self.model.state_dict(),
            "optimizers": {name: opt.state_dict() for name, opt in self._optimizers.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_model(self.model, state, "iris")
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._generator.set_state(state["generator"])

    def _check_phase(self, phase: str) -> None:
        if phase not in self._losses:
            raise ConfigError(f"expected one of the phases {sorted(self._losses)}, got {phase!r}")
