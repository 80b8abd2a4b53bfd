import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import ControllerConfig, WorldModelsConfig
from wm_distributed.families.world_models.model import ActingModel, WorldModel, check_spaces

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
VECTOR = spaces.Box(-1.0, 1.0, (4,), np.float32)


def image(size: int) -> spaces.Box:
    return spaces.Box(0, 255, (size, size, 3), np.uint8)


@pytest.mark.parametrize(
    "obs",
    [{"vector": VECTOR}, {"image": image(96)}, {"image": image(64), "speed": VECTOR}],
    ids=["no image", "size", "two observations"],
)
def test_observations_other_than_one_small_image_are_refused(obs: dict[str, spaces.Box]) -> None:
    with pytest.raises(ConfigError, match=r"needs one observation, an image uint8 \(64, 64, 3\)"):
        check_spaces(WorldModelsConfig(), EnvSpaces(obs, BOX))


def test_actions_that_c_cannot_drive_are_refused() -> None:
    space = spaces.MultiBinary(3)
    with pytest.raises(ConfigError, match="needs discrete or continuous actions, got MultiBinary"):
        check_spaces(WorldModelsConfig(), EnvSpaces({"image": image(64)}, space))


def test_a_configuration_for_other_actions_is_refused() -> None:
    config = WorldModelsConfig(controller=ControllerConfig(positive_only=(2,)))
    with pytest.raises(ConfigError, match="actions are discrete"):
        check_spaces(config, EnvSpaces({"image": image(64)}, spaces.Discrete(3)))


def test_the_image_may_have_any_name() -> None:
    model = ActingModel(WorldModelsConfig(), EnvSpaces({"camera": image(64)}, BOX))
    assert model.image_key == "camera"


def test_the_acting_part_leaves_the_decoder_out(
    small: WorldModelsConfig, car_spaces: EnvSpaces
) -> None:
    names = WorldModel(small, car_spaces).acting.state_dict()
    assert {name.split(".")[0] for name in names} == {"encoder", "memory", "controller_parameters"}
    assert not names["controller_parameters"].any()
