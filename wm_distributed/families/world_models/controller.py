"""C: a linear map from z and the memory's state to the action, or a network of one hidden layer.

Its parameters are a vector, because a population search finds them. P vectors are applied to P
groups of N environments in one batched product.

Source: Ha & Schmidhuber, "World Models" (2018), section 2.4 and the ablations of section 4.2: 867
    parameters for CarRacing, 1443 with 40 hidden units on z alone, 1088 for Doom.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import ControllerConfig
from wm_distributed.families.world_models.memory import MemoryState
from wm_distributed.types import Array


class Controller:
    """The shape of C, and its outputs for given parameters."""

    def __init__(
        self, config: ControllerConfig, latent_size: int, memory_units: int, num_outputs: int
    ) -> None:
        """Lays the parameter vector out: for each layer its weights, then its biases.

        Args:
            config: Inputs and layers.
            latent_size: Z.
            memory_units: H.
            num_outputs: O.
        """
        self._inputs = config.inputs
        self._bias = config.bias
        self.num_features = latent_size + memory_units * (len(config.inputs) - 1)
        sizes = [self.num_features, *([config.hidden] if config.hidden else []), num_outputs]
        self._weight_shapes = list(itertools.pairwise(sizes))
        self._splits: list[int] = []
        for num_in, num_out in self._weight_shapes:
            self._splits += [num_in * num_out, num_out if config.bias else 0]
        self.num_parameters = sum(self._splits)

    def features(self, latent: Tensor, state: MemoryState) -> Tensor:
        """What C sees, ``(…, F)``: z, and as configured the cell and hidden state."""
        parts = {
            "z": [latent],
            "zh": [latent, state.hidden],
            "zch": [latent, state.cell, state.hidden],
        }
        return torch.cat(parts[self._inputs], dim=-1)

    def to_tensor(self, parameters: Array) -> Tensor:
        """Parameters ``(num_parameters,)`` or ``(P, num_parameters)`` as a float32 tensor.

        Raises:
            ConfigError: The last axis has another size.
        """
        if parameters.shape[-1:] != (self.num_parameters,):
            raise ConfigError(
                f"a controller for these V and M has {self.num_parameters} parameters, got an "
                f"array {parameters.shape}: it was made with other sizes or inputs"
            )
        return torch.from_numpy(parameters.astype(np.float32))

    def __call__(self, parameters: Tensor, features: Tensor) -> Tensor:
        """Outputs before the squashing, ``(P, N, O)``.

        Args:
            parameters: ``(P, num_parameters)``, one vector for each group.
            features: ``(P, N, F)``.
        """
        parts = torch.split(parameters, self._splits, dim=1)
        outputs = features
        for layer, shape in enumerate(self._weight_shapes):
            weight = torch.unflatten(parts[2 * layer], 1, shape)  # (P, in, out)
            if layer:
                outputs = outputs.tanh()
            outputs = torch.bmm(outputs, weight)
            if self._bias:
                outputs = outputs + parts[2 * layer + 1].unsqueeze(1)
        return outputs
