import pytest

from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.launch.presets import all_families, load_preset


def test_every_preset_names_itself_its_family_and_that_family_s_configuration() -> None:
    for family in all_families():
        assert family.presets
        for name in family.presets:
            config, found = load_preset(name)
            assert found is family
            assert config.preset == name
            assert config.family == family.name
            assert type(config.model) is family.config


def test_preset_names_are_unique_over_families() -> None:
    names = [name for family in all_families() for name in family.presets]
    assert len(names) == len(set(names))


def test_a_function_of_one_s_own_is_a_preset() -> None:
    path = "wm_distributed.testing.counting_family:counting_preset"
    config, family = load_preset(path)
    assert family.name == "counting"
    assert config.preset == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dreamer-cartpol", "unknown preset 'dreamer-cartpol'; did you mean dreamer-cartpole"),
        ("no.such.module:preset", "cannot be imported: No module named 'no'"),
        ("wm_distributed.config:presett", "has no attribute 'presett'"),
        ("wm_distributed.config:EnvConfig", "returns a RunConfig, got EnvConfig"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset(name)
    assert issubclass(UnknownNameError, ConfigError)
