"""What is refused before anything starts."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import DataSpec, EnvSpaces, Phase, SelectorSpec
from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, EnvError, RunDirError, UnknownNameError
from wm_distributed.families import load_family
from wm_distributed.launch.preflight import preflight, warn_if_never_trained
from wm_distributed.launch.runtime import make_runtime
from wm_distributed.search_config import SearchConfig
from wm_distributed.testing import COUNTING_FAMILY, CountingConfig, CountingEnv
from wm_distributed.testing.counting_family import counting_preset


def changed(**sections: dict[str, Any]) -> RunConfig[Any]:
    config = counting_preset()
    parts = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **parts)


def test_a_run_that_can_work_is_planned(tmp_path: Path) -> None:
    plan = preflight(counting_preset(), tmp_path)
    assert plan.family is COUNTING_FAMILY
    assert [(space.shape, space.dtype) for space in plan.spaces.obs.values()] == [
        ((3,), np.float32)
    ]
    assert plan.spaces.action == spaces.Discrete(4)
    assert plan.num_streams == 4
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (dataclasses.replace(counting_preset(), family="dreamr"), UnknownNameError, "dreamer"),
        (changed(env={"id": "gym/CartPol-v1"}), UnknownNameError, "gym/CartPole-v1"),
        (changed(learner={"num_ranks": 3}), ConfigError, "batch of 4 .*num_ranks 3"),
        (
            changed(learner={"num_ranks": 2, "micro_batches": 4}),
            ConfigError,
            r"batch of 4 .*'counting' .*num_ranks 2 with learner\.micro_batches 4 each",
        ),
        (changed(replay={"capacity_steps": 8, "min_size": 8}), ConfigError, "7 steps in a row"),
        (
            changed(actors={"chunk_steps": 1000}),
            ConfigError,
            "chunk_steps is 1000, .*4000 over 2 shards and 4 streams no more than 962",
        ),
        (changed(replay={"ratio": 0.001}), ConfigError, r"0\.001 is too low"),
        (changed(replay={"ratio": 1e9}), ConfigError, "1000000000 is too high"),
        (
            changed(
                model={
                    "data": DataSpec(
                        batch_size=4,
                        length=6,
                        selector=SelectorSpec(uniform=0.5, prioritized=0.5),
                    )
                }
            ),
            ConfigError,
            r"prioritized of phase 'counting' is 0\.5, but family 'counting' gives no priorities",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(
    config: RunConfig[Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        preflight(config, tmp_path)


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    model = load_family("dreamer").presets["dreamer-debug"]().model
    with pytest.raises(ConfigError, match=r"configured by CountingConfig.*DreamerConfig"):
        preflight(dataclasses.replace(counting_preset(), model=model), tmp_path)


LACKING = dataclasses.replace(COUNTING_FAMILY, name="lacking", build_policy=None)
POPULATION = dataclasses.replace(
    COUNTING_FAMILY,
    phases=lambda _: [
        *COUNTING_FAMILY.phases(CountingConfig()),
        Phase(name="search", data=None, kind="population"),
    ],
)
UNTRAINED = dataclasses.replace(COUNTING_FAMILY, name="untrained", build_trainable=None)


def _refuse(config: CountingConfig, spaces: EnvSpaces) -> None:
    raise ConfigError("these spaces are not served")


REFUSING = dataclasses.replace(COUNTING_FAMILY, check=_refuse)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("LACKING", "'lacking' has not got a policy"),
        ("POPULATION", r"CountingPolicy.* has no parameter vector"),
        ("UNTRAINED", "'untrained' has not got a model to train"),
        ("REFUSING", "these spaces are not served"),
    ],
)
def test_a_family_that_cannot_do_it_is_refused(family: str, message: str, tmp_path: Path) -> None:
    config = dataclasses.replace(counting_preset(), family=f"{__name__}:{family}")
    config = dataclasses.replace(config, search=SearchConfig(max_episodes=10))
    with pytest.raises(ConfigError, match=message):
        preflight(config, tmp_path)


class BrokenEnv(CountingEnv):
    """Cannot be reset."""

    def reset(self, **_: Any) -> Any:
        raise RuntimeError("no track could be generated")


def test_an_environment_that_fails_at_once_is_refused_with_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="no track could be generated"):
        preflight(changed(env={"id": f"{__name__}:BrokenEnv"}), tmp_path)


def test_a_gpu_that_is_not_there_is_missed_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = changed(learner={"device": "cuda", "num_ranks": 2})
    with pytest.raises(ConfigError, match="needs 2 GPUs, but 1 are free"):
        make_runtime(config, tmp_path, resume=False)
    joined = changed(learner={"device": "cuda", "num_ranks": 2}, runtime={"ray_address": "auto"})
    make_runtime(joined, tmp_path, resume=False)  # its machines may have more


def test_a_directory_that_cannot_be_written_is_refused_to_training_alone(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"cannot write in the run directory .*/nothing"):
        make_runtime(counting_preset(), tmp_path / "nothing", resume=False)
    make_runtime(counting_preset(), tmp_path / "nothing", resume=True, trains=False)


def test_a_run_that_ends_before_training_begins_is_told_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = changed(stop={"env_steps": 500}, replay={"min_size": 500})
    warn_if_never_trained(preflight(config, tmp_path))
    assert "stop.env_steps is 500, and training begins after 500 steps" in caplog.text
    caplog.clear()
    longer = changed(stop={"env_steps": 501}, replay={"min_size": 500})
    warn_if_never_trained(preflight(longer, tmp_path))
    assert not caplog.text


def test_the_first_run_of_a_new_user_passes(tmp_path: Path) -> None:
    plan = preflight(load_family("dreamer").presets["dreamer-cartpole"](), tmp_path)
    assert plan.specs[0].trained_steps > 0


def test_micro_batches_of_a_family_that_cannot_split_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataclasses.replace(COUNTING_FAMILY, splits_batches=False)
    monkeypatch.setattr("wm_distributed.launch.preflight.load_family", lambda name: whole)
    message = "micro_batches is 2, but family 'counting' passes through a batch as a whole: set it"
    with pytest.raises(ConfigError, match=message):
        preflight(changed(learner={"micro_batches": 2}), tmp_path)


def test_sharding_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(learner={"sharding": "fsdp"})
    message = "sharding is fsdp, but family 'counting' keeps its whole model on each rank"
    with pytest.raises(ConfigError, match=message):
        preflight(config, tmp_path)
    dividing = dataclasses.replace(COUNTING_FAMILY, can_be_sharded=True)
    monkeypatch.setattr("wm_distributed.launch.preflight.load_family", lambda name: dividing)
    message = r"needs two ranks or more, not compiled; got learner\.num_ranks 1 and"
    with pytest.raises(ConfigError, match=message):
        preflight(config, tmp_path)


def test_cuda_graphs_that_cannot_be_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "cuda_graphs is True, but train steps of family 'counting' cannot be captured"
    with pytest.raises(ConfigError, match=message):
        preflight(changed(learner={"cuda_graphs": True}), tmp_path)
    captured = dataclasses.replace(COUNTING_FAMILY, can_be_captured=True)
    monkeypatch.setattr("wm_distributed.launch.preflight.load_family", lambda name: captured)
    with pytest.raises(ConfigError, match=r"one rank, but learner\.num_ranks is 2"):
        preflight(changed(learner={"cuda_graphs": True, "num_ranks": 2}), tmp_path)


@pytest.mark.parametrize(
    ("groups", "kind", "message"),
    [
        (("tokenizer",), "ray", "learner.groups is tokenizer, .*phases tokenizer, world_model, "),
        (("tokenizer+world_model", "world_model+actor_critic"), "ray", "belongs to one group"),
        (("tokenizer", "world_model", "actor"), "ray", "belongs to one group"),
        (("tokenizer", "world_model+actor_critic"), "inline", "has one process"),
    ],
)
def test_learner_groups_that_cannot_be_formed_are_refused(
    groups: tuple[str, ...], kind: Literal["ray", "inline"], message: str, tmp_path: Path
) -> None:
    config = load_family("iris").presets["iris-debug"]()
    config = dataclasses.replace(
        config,
        learner=dataclasses.replace(config.learner, groups=groups),
        runtime=dataclasses.replace(config.runtime, kind=kind),
    )
    with pytest.raises(ConfigError, match=message):
        preflight(config, tmp_path)


def test_groups_of_a_family_that_trains_all_in_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="family 'counting' trains all"):
        preflight(changed(learner={"groups": ("counting",)}), tmp_path)


def test_phases_that_all_leave_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brief = Phase(name="brief", data=DataSpec(batch_size=4, length=1), steps=1, num_cycles=1)
    family = dataclasses.replace(COUNTING_FAMILY, phases=lambda config: [brief])
    monkeypatch.setattr("wm_distributed.launch.preflight.load_family", lambda name: family)
    with pytest.raises(ConfigError, match="'counting' leave after some cycles"):
        preflight(counting_preset(), tmp_path)
