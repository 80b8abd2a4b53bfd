"""Trains a Dreamer: one optimiser step on world model, actor and critic a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wm_distributed.api import EnvSpaces, Report, TrainContext, TrainOutput
from wm_distributed.errors import CheckpointError
from wm_distributed.families.dreamer import losses
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.losses import DETER, STOCH, Noise
from wm_distributed.families.dreamer.model import DreamerModel, check_spaces
from wm_distributed.families.dreamer.report import open_loop_report
from wm_distributed.families.dreamer.rssm import Posterior
from wm_distributed.nets.optim import FlatOptimizer
from wm_distributed.ops.normalize import PercentileScale
from wm_distributed.types import IS_FIRST, Array, TensorBatch
from wm_distributed.weights import pack_weights


class DreamerTrainable:
    """World model, actor and critic with their optimiser, on one device."""

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
        trained = [param for param in self.model.parameters() if param.requires_grad]
        self._optimizer = FlatOptimizer(trained, config.optim, context.collective)
        self._return_scale = PercentileScale(context.collective).to(self._device)
        self._generator = torch.Generator(self._device)
        self._generator.manual_seed(context.seed * 1_000_003 + context.collective.rank)

    def init_train(self, phase: str, batch_size: int) -> None:
        """Nothing: each sequence starts from the state that replay stored with it."""
        return None

    def train_step(self, phase: str, carry: None, batch: TensorBatch) -> tuple[None, TrainOutput]:
        noise = self._draw_noise(*batch.columns[IS_FIRST][:, 1:].shape)
        self._optimizer.zero_grad()
        loss, posterior, metrics = self._loss(batch, noise)
        loss.backward()  # type: ignore[no-untyped-call]
        metrics |= self._optimizer.step()
        self.model.update_slow_critic(self.config.behavior.slow_rate)
        latent = self.model.acting.rssm.latent
        update = {
            DETER: posterior.deter.detach().to(torch.float16),
            STOCH: latent.to_replay(posterior.stoch.detach()),
        }
        return None, TrainOutput(metrics=metrics, update=update)

    def _loss(
        self, batch: TensorBatch, noise: Noise
    ) -> tuple[Tensor, Posterior, dict[str, Tensor]]:
        model, config = self.model, self.config
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._low_precision):
            steps = losses.trained_steps(model, batch)
            posterior = losses.observe(model, steps, noise.posterior)
            terms, metrics = losses.world_model_losses(model, config, steps, posterior)
            rollout = losses.imagine(model, posterior, noise)
            behavior, returns, figures = losses.actor_critic_losses(
                model, config, rollout, self._return_scale
            )
            start_returns = returns[:, 0].reshape(steps.reward.shape)
            terms |= behavior
            terms["replay_value"] = losses.replay_value_loss(
                model, config, steps, posterior, start_returns
            )
        total = torch.stack(list(terms.values())).sum()
        named = {f"loss_{name}": term.detach() for name, term in terms.items()}
        return total, posterior, {**named, **metrics, **figures, "loss": total.detach()}

    def report(self, phase: str, batch: TensorBatch) -> Report:
        return open_loop_report(self.model, batch)

    def policy_weights(self) -> Array:
        return pack_weights(self.model.acting.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {
            "family": "dreamer",
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "return_scale": self._return_scale.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("family") != "dreamer":
            raise CheckpointError(
                f"expected a checkpoint of family 'dreamer', got {state.get('family')!r}"
            )
        check_same_shapes(self.model.state_dict(), state["model"])
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._return_scale.load_state_dict(state["return_scale"])
        self._generator.set_state(state["generator"])

    @property
    def _low_precision(self) -> bool:
        return self._context.precision == "bfloat16"

    def _draw_noise(self, num_sequences: int, num_steps: int) -> Noise:
        latent, head = self.model.acting.rssm.latent, self.model.acting.actor.head
        imagined = (self.config.behavior.horizon, num_sequences * num_steps)
        source: dict[str, Any] = {"device": self._device, "generator": self._generator}
        return Noise(
            posterior=latent.noise(num_sequences, num_steps, **source),
            prior=latent.noise(*imagined, **source),
            action=head.noise(*imagined, **source),
        )


def check_same_shapes(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    """Refuses parameters of another size.

    Raises:
        CheckpointError: Names or shapes differ; the message names the first.
    """
    for name in sorted(own.keys() | loaded.keys()):
        expected = tuple(own[name].shape) if name in own else None
        got = tuple(loaded[name].shape) if name in loaded else None
        if expected != got:
            raise CheckpointError(
                f"checkpoint of another size: {name} should have shape {expected}, got {got}; "
                "use the configuration and environment that it was saved with"
            )
