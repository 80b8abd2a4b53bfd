"""The networks of a World Models agent, grouped by who needs them."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.actions import build_actions
from wm_distributed.families.world_models.config import IMAGE_SIZE, WorldModelsConfig
from wm_distributed.families.world_models.controller import Controller
from wm_distributed.families.world_models.memory import Memory
from wm_distributed.families.world_models.vision import Decoder, Encoder


class ActingModel(nn.Module):
    """What acting and dreaming need: V's encoder, M and C. Its weights are published."""

    controller_parameters: Tensor
    """``(num_parameters,)``, the mean solution of the search; zeros before there is one."""

    def __init__(self, config: WorldModelsConfig, env_spaces: EnvSpaces) -> None:
        """Builds the networks.

        Raises:
            ConfigError: They cannot serve the spaces.
        """
        super().__init__()
        self.image_key = find_image(env_spaces)
        latent_size = config.vision.latent_size
        self.latent_size = latent_size
        self.actions = build_actions(env_spaces.action, config.controller)
        self.encoder = Encoder(latent_size)
        self.memory = Memory(config.memory, latent_size, self.actions.input_size)
        self.controller = Controller(
            config.controller, latent_size, config.memory.units, self.actions.num_outputs
        )
        self.register_buffer("controller_parameters", torch.zeros(self.controller.num_parameters))


class WorldModel(nn.Module):
    """All networks: the acting part, and V's decoder."""

    def __init__(self, config: WorldModelsConfig, env_spaces: EnvSpaces) -> None:
        """Builds the networks.

        Raises:
            ConfigError: They cannot serve the spaces.
        """
        super().__init__()
        self.acting = ActingModel(config, env_spaces)
        self.decoder = Decoder(config.vision.latent_size)


def find_image(env_spaces: EnvSpaces) -> str:
    """Key of the one observation, an image.

    Raises:
        ConfigError: There is another observation, or the image has another size.
    """
    shapes = {key: (space.dtype.name, space.shape) for key, space in env_spaces.obs.items()}
    if list(shapes.values()) != [("uint8", (IMAGE_SIZE, IMAGE_SIZE, 3))]:
        raise ConfigError(
            f"world_models needs one observation, an image uint8 ({IMAGE_SIZE}, {IMAGE_SIZE}, 3), "
            f"got {shapes}; env.image_size sets the size of images"
        )
    return next(iter(shapes))


def check_spaces(config: WorldModelsConfig, env_spaces: EnvSpaces) -> None:
    """Refuses spaces that the networks cannot serve, before anything starts.

    Raises:
        ConfigError: As above, or the controller's configuration does not fit the actions.
    """
    find_image(env_spaces)
    if not isinstance(env_spaces.action, spaces.Discrete | spaces.Box):
        raise ConfigError(
            f"world_models needs discrete or continuous actions, got {env_spaces.action}"
        )
    build_actions(env_spaces.action, config.controller)
