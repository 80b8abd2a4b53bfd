"""What every family must do, whatever its model: one test for each promise of ``api.py``."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, Policy, Trainable, TrainContext
from wm_distributed.errors import CheckpointError, ConfigError
from wm_distributed.families import FAMILIES, load_family
from wm_distributed.family import FamilySpec
from wm_distributed.types import ActMode, EnvStep, TensorBatch, Weights

IMAGE = spaces.Box(0, 255, (64, 64, 3), np.uint8)
STATE = spaces.Box(-1.0, 1.0, (4,), np.float32)
SPACES = {
    "vector-discrete": EnvSpaces({"state": STATE}, spaces.Discrete(3)),
    "mixed-continuous": EnvSpaces(
        {"image": IMAGE, "state": STATE}, spaces.Box(-1.0, 1.0, (2,), np.float32)
    ),
    "image-discrete": EnvSpaces({"image": IMAGE}, spaces.Discrete(3)),
    "image-continuous": EnvSpaces({"image": IMAGE}, spaces.Box(-1.0, 1.0, (2,), np.float32)),
}
MakeSteps = Callable[[EnvSpaces, int, int], list[EnvStep]]
Collect = Callable[[Policy, list[EnvStep]], TensorBatch]


@dataclasses.dataclass
class Case:
    """A family at debug size with one environment's spaces, and a batch from its own policy."""

    family: FamilySpec
    config: Any
    env_spaces: EnvSpaces
    context: TrainContext
    steps: list[EnvStep]
    batch: TensorBatch

    def trainable(self) -> Trainable:
        assert self.family.build_trainable is not None
        return self.family.build_trainable(self.config, self.env_spaces, self.context)

    def policy(self, seed: int = 0) -> Policy:
        assert self.family.build_policy is not None
        return self.family.build_policy(self.config, self.env_spaces, seed)

    def gradient_phases(self) -> list[str]:
        phases = self.family.phases(self.config)
        return [phase.name for phase in phases if phase.kind == "gradient"]

    def train(
        self, trainable: Trainable, num_steps: int, phases: Sequence[str] = ()
    ) -> dict[str, list[Mapping[str, Any]]]:
        """Metrics of each step, by phase; of all phases that are trained, or some."""
        metrics: dict[str, list[Mapping[str, Any]]] = {}
        for phase in phases or self.gradient_phases():
            carry = trainable.init_train(phase, len(self.batch.columns["is_first"]))
            for _ in range(num_steps):
                carry, output = trainable.train_step(phase, carry, self.batch)
                metrics.setdefault(phase, []).append(output.metrics)
        return metrics


def debug_config(family: FamilySpec) -> Any:
    return family.presets[f"{family.name.replace('_', '-')}-debug"]().model


def cases() -> list[tuple[str, str]]:
    """Each family with the two most general kinds of spaces that it serves."""
    served = []
    for name in sorted(FAMILIES):
        family = load_family(name)
        if family.build_trainable is None:
            continue
        config = debug_config(family)
        kinds = [kind for kind, env_spaces in SPACES.items() if serves(family, config, env_spaces)]
        served += [(name, kind) for kind in kinds[:2]]
    return served


def serves(family: FamilySpec, config: Any, env_spaces: EnvSpaces) -> bool:
    try:
        if family.check is not None:
            family.check(config, env_spaces)
    except ConfigError:
        return False
    return True


@pytest.fixture(params=cases(), ids="-".join)
def case(
    request: pytest.FixtureRequest,
    context: TrainContext,
    make_steps: MakeSteps,
    collect: Collect,
) -> Case:
    name, kind = request.param
    family, env_spaces = load_family(name), SPACES[kind]
    config = debug_config(family)
    assert family.build_policy is not None
    # One batch for all phases: sequences as long as the longest.
    data = [phase.data for phase in family.phases(config) if phase.data is not None]
    length = max(1 + spec.length for spec in data)
    steps = make_steps(env_spaces, max(spec.batch_size for spec in data if spec.length > 1), length)
    batch = collect(family.build_policy(config, env_spaces, 0), steps)
    return Case(family, config, env_spaces, context, steps, batch)


def tensors(state: object, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(state, torch.Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for name, value in state.items():
            yield from tensors(value, f"{path}/{name}")


def test_training_is_finite(case: Case) -> None:
    for metrics in case.train(case.trainable(), 3).values():
        assert all(math.isfinite(float(value)) for step in metrics for value in step.values())


def test_training_lowers_the_first_phase_s_loss(case: Case) -> None:
    """Later phases may learn from what they imagine, where a loss says little."""
    phase = case.gradient_phases()[0]
    metrics = case.train(case.trainable(), 30, [phase])[phase]
    losses = [float(step.get("loss", step.get(f"{phase}_loss"))) for step in metrics]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_every_parameter_is_trained(case: Case) -> None:
    trainable = case.trainable()
    before = copy.deepcopy(trainable.state_dict()["model"])
    case.train(trainable, 6)
    after = trainable.state_dict()["model"]
    unchanged = [name for name, value in tensors(before) if torch.equal(value, after[name[1:]])]
    searched = any(phase.kind == "population" for phase in case.family.phases(case.config))
    assert len(unchanged) == searched, unchanged  # the vector that a search will fill in


def test_the_future_does_not_change_the_past(case: Case) -> None:
    changed = {name: column.clone() for name, column in case.batch.columns.items()}
    for name in [*(key for key in changed if key.startswith("obs/")), "reward"]:
        changed[name][:, -1] = changed[name][:, -1].flip(0)
    updates = []
    for columns in (case.batch.columns, changed):
        trainable = case.trainable()
        phase = case.gradient_phases()[0]
        _, output = trainable.train_step(phase, None, TensorBatch(columns, case.batch.context))
        updates.append(output.update)
    if not updates[0]:
        pytest.skip("a family without updates in its first phase has a test of its own")
    for name, update in updates[0].items():
        assert torch.equal(update[:, :-1], updates[1][name][:, :-1]), name
    last = [
        not torch.equal(update[:, -1], updates[1][name][:, -1])
        for name, update in updates[0].items()
    ]
    assert any(last), "the probe itself must reach the last step"


def test_updates_fit_the_stored_columns(case: Case) -> None:
    phase = case.gradient_phases()[0]
    _, output = case.trainable().train_step(phase, None, case.batch)
    for name, update in output.update.items():
        stored = case.batch.columns[name][:, case.batch.context :]
        assert update.shape == stored.shape, name
        assert update.dtype == stored.dtype, name


def test_a_restored_checkpoint_trains_and_acts_identically(case: Case) -> None:
    trainable = case.trainable()
    case.train(trainable, 3)
    state = copy.deepcopy(trainable.state_dict())
    case.train(trainable, 2)
    restored = case.trainable()
    restored.load_state_dict(state)
    case.train(restored, 2)
    assert np.array_equal(trainable.policy_weights(), restored.policy_weights())
    actions = []
    for source in (trainable, restored):
        policy = case.policy()
        policy.load_weights(Weights(1, source.policy_weights()))
        assert policy.version == 1
        actions.append(act(policy, case.steps, "eval"))
    assert np.array_equal(actions[0], actions[1])


def test_state_holds_tensors_and_plain_values_only(case: Case) -> None:
    def check(value: object) -> None:
        if isinstance(value, Mapping):
            for item in value.values():
                check(item)
        else:
            assert isinstance(value, (torch.Tensor, int, float, str, bool, type(None)))

    check(case.trainable().state_dict())


def test_a_checkpoint_of_another_family_is_refused(case: Case) -> None:
    state = dict(case.trainable().state_dict())
    with pytest.raises(CheckpointError, match="another"):
        case.trainable().load_state_dict(state | {"family": "another"})


def test_actions_lie_in_the_action_space(case: Case) -> None:
    actions = act(case.policy(), case.steps, "train")
    space = case.env_spaces.action
    assert actions.dtype == (np.int32 if hasattr(space, "n") else np.float32)
    for action in actions.reshape(-1, *space.shape):
        assert space.contains(action)


def test_equal_seeds_act_equally_and_others_do_not(case: Case) -> None:
    actions = [act(case.policy(seed), case.steps, "train") for seed in (1, 1, 2)]
    assert np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[0], actions[2])


def test_a_row_of_a_batch_acts_as_alone(case: Case) -> None:
    together, alone = case.policy(), case.policy()
    step = case.steps[0]
    row = EnvStep(
        obs={key: value[:1] for key, value in step.obs.items()},
        reward=step.reward[:1],
        is_first=step.is_first[:1],
        is_last=step.is_last[:1],
        is_terminal=step.is_terminal[:1],
    )
    _, _, many = together.act(together.initial_state(len(step.is_first)), step, "eval")
    _, _, one = alone.act(alone.initial_state(1), row, "eval")
    assert many.keys() == one.keys()
    for name, extra in one.items():
        np.testing.assert_allclose(many[name][:1], extra, rtol=1e-3, atol=1e-3, err_msg=name)


def test_a_first_step_forgets_what_was_before(case: Case) -> None:
    """Reset by ``is_first`` equals a new state, for the rows that it marks."""
    step = case.steps[0]
    first = dataclasses.replace(step, is_first=np.ones_like(step.is_first))
    used, fresh = case.policy(), case.policy()
    _, state, _ = used.act(used.initial_state(len(step.is_first)), case.steps[1], "eval")
    used = case.policy()  # the same random numbers as the fresh one from here on
    action, _, extras = used.act(state, first, "eval")
    expected, _, expected_extras = fresh.act(fresh.initial_state(len(step.is_first)), first, "eval")
    assert np.array_equal(action, expected)
    for name, extra in extras.items():
        assert np.array_equal(extra, expected_extras[name]), name


def test_a_report_is_finite_repeatable_and_changes_nothing(case: Case) -> None:
    trainable = case.trainable()
    before = copy.deepcopy(trainable.state_dict())
    phase = case.gradient_phases()[0]
    first, second = trainable.report(phase, case.batch), trainable.report(phase, case.batch)
    assert first.scalars
    assert all(math.isfinite(value) for value in first.scalars.values())
    assert first.scalars == second.scalars
    assert first.images or first.videos or first.series
    for video in first.videos.values():
        assert video.dtype == np.uint8
        assert video.ndim == 4
        assert video.shape[-1] == 3
    for name, value in tensors(before):
        after = dict(tensors(trainable.state_dict()))[name]
        assert torch.equal(value, after), name


def test_a_simulator_imagines_observations_like_the_real_ones(case: Case) -> None:
    if case.family.build_simulator is None:
        pytest.skip("this family has no simulator")
    simulator = case.family.build_simulator(case.trainable())
    state = simulator.start(case.batch)
    for _ in range(3):
        state, step = simulator.step(state, case.batch.columns["action"][:, -1])
    batch_size = len(case.batch.columns["is_first"])
    assert step.reward.shape == step.cont.shape == (batch_size,)
    assert ((step.cont >= 0) & (step.cont <= 1)).all()
    for key, space in case.env_spaces.obs.items():
        image = space.dtype == np.uint8
        shape = (space.shape[2], *space.shape[:2]) if image else space.shape
        assert step.obs[key].shape == (batch_size, *shape)
        assert step.obs[key].isfinite().all()


def act(policy: Policy, steps: list[EnvStep], mode: ActMode) -> np.ndarray[Any, Any]:
    state = policy.initial_state(len(steps[0].is_first))
    actions = []
    for step in steps:
        action, state, _ = policy.act(state, step, mode)
        actions.append(action)
    return np.stack(actions)
