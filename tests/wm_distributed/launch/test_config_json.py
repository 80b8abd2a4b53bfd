import json
from dataclasses import replace
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, UnknownNameError
from wm_distributed.family import FamilySpec
from wm_distributed.launch.config_json import changed_flags, config_from_json, config_to_json
from wm_distributed.launch.presets import all_families
from wm_distributed.testing.counting_family import counting_preset


def changed(**fields: Any) -> str:
    values = json.loads(config_to_json(counting_preset()))
    for path, value in fields.items():
        *parents, name = path.split("__")
        place = values
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[name]
        else:
            place[name] = value
    return json.dumps(values)


def test_every_preset_of_every_family_comes_back_equal() -> None:
    presets = [preset for family in all_families() for preset in family.presets.values()]
    assert presets
    for preset in (*presets, counting_preset):
        config = preset()
        again, family = config_from_json(config_to_json(config), "config.json")
        assert again == config
        assert type(again.model) is family.config


def test_changed_flags_of_environment_and_model_are_told_with_what_they_were() -> None:
    saved = counting_preset()
    config = replace(
        saved,
        seed=saved.seed + 1,
        env=replace(saved.env, image_size=saved.env.image_size + 1),
        model=replace(saved.model, data=replace(saved.model.data, batch_size=99)),
    )
    assert changed_flags(saved, saved) == []
    assert changed_flags(saved, config) == [
        f"--env.image-size was {saved.env.image_size}",
        f"--model.data.batch-size was {saved.model.data.batch_size}",
    ]


def test_options_of_the_environment_come_back_as_they_were() -> None:
    config = counting_preset()
    config = replace(config, env=replace(config.env, options={"size": 3, "names": ["a"]}))
    assert config_from_json(config_to_json(config), "config.json")[0] == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"actors__num_actor": 3}, r"unknown field actors\.num_actor \(did you mean actors\.num"),
        ({"model": None}, r"field model is missing"),
        ({"model__learning_rat": 1.0}, r"unknown field model\.learning_rat \(did you mean model"),
        ({"seed": "0"}, r"seed must be int, got '0'"),
        ({"seed": True}, r"seed must be int, got True"),
        ({"replay__ratio": "x"}, r"replay\.ratio must be float, got 'x'; or .* must be null"),
        ({"runtime__kind": "cloud"}, r"runtime\.kind must be 'ray' or 'inline', got 'cloud'"),
        ({"env": 3}, r"env must hold the fields of EnvConfig, got 3"),
        ({"actors__num_actors": 0}, r"config\.json: actors\.num_actors must be at least 1"),
    ],
)
def test_a_field_that_does_not_fit_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_json(changed(**fields), "config.json")


def test_a_field_that_an_earlier_version_did_not_have_gets_its_default_which_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, _ = config_from_json(changed(learner__keep_checkpoints=None), "config.json")
    assert config == counting_preset()
    assert "field learner.keep_checkpoints is missing and gets its default" in caplog.text


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        config_from_json('{"family": ', "config.json")
    with pytest.raises(ConfigError, match="it names no family"):
        config_from_json("[]", "config.json")
    with pytest.raises(UnknownNameError, match="did you mean dreamer"):
        config_from_json('{"family": "dreamr"}', "config.json")


@pytest.mark.parametrize("family", all_families(), ids=lambda family: family.name)
def test_a_family_that_was_changed_by_hand_is_answered_with_the_one_it_was(
    family: FamilySpec,
) -> None:
    for name, make in family.presets.items():
        text = config_to_json(make())
        for other in all_families():
            if other is family:
                continue
            values = json.loads(text) | {"family": other.name}
            with pytest.raises(ConfigError) as caught:
                config_from_json(json.dumps(values), "config.json")
            assert str(caught.value) == (
                f"config.json: family is {other.name!r}, but the model is that of family "
                f"{family.name!r} (preset {name!r}), and a run keeps the family that it began "
                "with: set it back in that file, or begin a new run"
            )


def test_the_model_of_a_family_of_one_s_own_is_not_taken_for_another_s() -> None:
    config: RunConfig[Any] = replace(counting_preset(), family="dreamer")
    with pytest.raises(
        ConfigError, match=r"the model is that of another family \(preset 'counting'\)"
    ):
        config_from_json(config_to_json(config), "config.json")
