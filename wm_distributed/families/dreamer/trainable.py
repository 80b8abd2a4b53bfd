"""Trains a Dreamer: one step on world model, actor and critic for each batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces, Report, TrainContext, TrainOutput
from wm_distributed.families.dreamer import behavior, world_model
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.inputs import (
    DETER,
    STOCH,
    Noise,
    draw_noise,
    trained_steps,
)
from wm_distributed.families.dreamer.model import DreamerModel, check_spaces
from wm_distributed.families.dreamer.report import open_loop_report
from wm_distributed.families.dreamer.rssm import Posterior
from wm_distributed.micro_batches import join_outputs
from wm_distributed.nets.captured import Captured
from wm_distributed.nets.config import OptimConfig
from wm_distributed.nets.loading import load_model
from wm_distributed.nets.sharding import full_state, gathered, make_optimizer, shard_losses
from wm_distributed.ops.normalize import PercentileScale
from wm_distributed.types import IS_FIRST, Array, TensorBatch
from wm_distributed.weights import pack_weights


class DreamerTrainable:
    """World model, actor and critic with their optimisers, on one device."""

    def __init__(self, config: DreamerConfig, env_spaces: EnvSpaces, context: TrainContext) -> None:
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
            self.model = DreamerModel(config, env_spaces).to(self._device)
        if context.compile:
            self.model.compile_parts()
        self._losses = shard_losses(self.model, self._loss, context)
        self._optimizers = {
            name: make_optimizer(params, optim, context)
            for name, (params, optim) in _parameter_groups(self.model, config).items()
        }
        self._return_scale = PercentileScale(
            context.collective, micro_batches=context.micro_batches
        ).to(self._device)
        self._generator = torch.Generator(self._device)
        self._generator.manual_seed(context.seed * 1_000_003 + context.collective.rank)
        self._train_steps = 0
        self._update = Captured(self._update_once) if context.cuda_graphs else self._update_once

    def init_train(self, phase: str, batch_size: int) -> None:
        """Nothing: each sequence starts from the state that replay stored with it."""
        return None

    def train_step(self, phase: str, carry: None, batch: TensorBatch) -> tuple[None, TrainOutput]:
        config = self.config
        shape = batch.columns[IS_FIRST][:, 1:].shape
        noise = draw_noise(self.model.acting, config, shape, self._device, self._generator)
        output = self._update(batch, noise)
        self._train_steps += 1
        if self._train_steps % config.behavior.slow_every == 0:
            self.model.update_slow_critic(config.behavior.slow_rate)
        return None, output

    def _update_once(self, batch: TensorBatch, noise: Noise) -> TrainOutput:
        """All of a train step that is the same each time: it can be captured in a CUDA graph."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()
        num_parts = self._context.micro_batches
        parts = zip(batch.split(num_parts), noise.split(num_parts), strict=True)
        output = join_outputs([self._accumulate(*part) for part in parts])
        metrics = dict(output.metrics)
        for name, optimizer in self._optimizers.items():
            metrics |= {f"{name}_{key}": value for key, value in optimizer.step().items()}
        return replace(output, metrics=metrics)

    def _accumulate(self, batch: TensorBatch, noise: Noise) -> TrainOutput:
        """Adds a part's share of the batch's gradient."""
        loss, posterior, metrics = self._losses(batch, noise)
        priorities = self._surprise(posterior) if self.config.selector.prioritized else None
        (loss / self._context.micro_batches).backward()
        update = {
            DETER: posterior.deter.detach().to(torch.float16),
            STOCH: self.model.acting.rssm.latent.to_replay(posterior.stoch.detach()),
        }
        return TrainOutput(metrics=metrics, update=update, priorities=priorities)

    def _loss(
        self, batch: TensorBatch, noise: Noise
    ) -> tuple[Tensor, Posterior, dict[str, Tensor]]:
        model, config = self.model, self.config
        with self._autocast():
            steps = trained_steps(model.acting, config, batch)
            posterior = world_model.observe(model.acting, steps, noise.posterior)
            terms, metrics = world_model.world_model_losses(model, config, steps, posterior)
            rollout = behavior.imagine(model, config, posterior, noise)
            imagined, returns, figures = behavior.actor_critic_losses(
                model, config, rollout, self._return_scale
            )
            terms |= imagined
            if config.loss.replay_value:
                terms["replay_value"] = behavior.replay_value_loss(
                    model, config, steps, posterior, returns[:, 0].reshape(steps.reward.shape)
                )
        total = torch.stack(list(terms.values())).sum()
        named = {f"loss_{name}": term.detach() for name, term in terms.items()}
        return total, posterior, {**named, **metrics, **figures, "loss": total.detach()}

    @torch.no_grad()
    def _surprise(self, posterior: Posterior) -> Tensor:
        """Priorities ``(B,)``: the dynamics loss of each sequence, nats a step, no free nats."""
        rssm = self.model.acting.rssm
        with self._autocast():
            prior = rssm.prior_dist(posterior.deter)
            return rssm.latent.kl(posterior.dist, prior).mean(1).clamp_min(0)

    def _autocast(self) -> torch.autocast:
        low_precision = self._context.precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=low_precision)

    def report(self, phase: str, batch: TensorBatch) -> Report:
        with gathered(self._losses):
            return open_loop_report(self.model, self.config, batch)

    def policy_weights(self) -> Array:
        return pack_weights(full_state(self.model.acting))

    def state_dict(self) -> dict[str, Any]:
        optimizers = self._optimizers.items()
        return {
            "family": "dreamer",
            "model": full_state(self.model),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers},
            "return_scale": self._return_scale.state_dict(),
            "generator": self._generator.get_state(),
            "train_steps": self._train_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_model(self.model, state, "dreamer")
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._return_scale.load_state_dict(state["return_scale"])
        self._generator.set_state(state["generator"])
        self._train_steps = state["train_steps"]


def _parameter_groups(
    model: DreamerModel, config: DreamerConfig
) -> dict[str, tuple[list[nn.Parameter], OptimConfig]]:
    """What each optimiser trains, by its name."""
    groups = {"model": (model.world_parameters(), config.optim)}
    own = {
        "actor": (list(model.acting.actor.parameters()), config.actor_optim),
        "critic": (list(model.critic.parameters()), config.critic_optim),
    }
    for name, (params, optim) in own.items():
        if optim is None:
            groups["model"][0].extend(params)
        else:
            groups[name] = (params, optim)
    return groups
