import numpy as np
import torch

from learners.write_back import begin_write_back
from wm_distributed.api import DataSpec, SelectorSpec, TrainOutput
from wm_distributed.types import StepAddresses, TensorBatch

DATA = DataSpec(batch_size=2, length=3, context=1)
PRIORITIZED = DataSpec(
    table="recent",
    batch_size=2,
    length=3,
    context=1,
    selector=SelectorSpec(uniform=0.5, prioritized=0.5),
)
SLOT = np.arange(8).reshape(2, 4)
ADDRESSES = StepAddresses(np.array([0, 1]), SLOT, SLOT + 100)
BATCH = TensorBatch(
    {
        "latent/deter": torch.zeros(2, 4, 5, dtype=torch.float16),
        "latent_version": torch.ones(2, 4, dtype=torch.int32),
        "reward": torch.zeros(2, 4),
    },
    context=1,
)


def test_latents_go_to_the_trained_steps_with_their_version() -> None:
    output = TrainOutput({}, {"latent/deter": torch.full((2, 3, 5), 0.5)})
    make_update = begin_write_back(DATA, BATCH, ADDRESSES, output, version=6)
    assert make_update is not None
    update = make_update()
    np.testing.assert_array_equal(update.addresses.slot, [[1, 2, 3], [5, 6, 7]])
    np.testing.assert_array_equal(update.addresses.generation, [[101, 102, 103], [105, 106, 107]])
    np.testing.assert_array_equal(update.addresses.shard, [0, 1])
    assert update.columns.keys() == {"latent/deter", "latent_version"}
    assert update.columns["latent/deter"].dtype == np.float16  # the column's own type
    assert update.columns["latent/deter"].shape == (2, 3, 5)
    np.testing.assert_array_equal(update.columns["latent_version"], np.full((2, 3), 6))
    assert update.columns["latent_version"].dtype == np.int32
    assert update.priorities is None


def test_priorities_go_to_the_first_steps_context_included() -> None:
    output = TrainOutput({}, priorities=torch.tensor([0.25, 4.0]))
    make_update = begin_write_back(PRIORITIZED, BATCH, ADDRESSES, output, version=6)
    assert make_update is not None
    update = make_update()
    assert update.table == "recent"
    assert update.starts is not None
    np.testing.assert_array_equal(update.starts.slot, [[0], [4]])
    np.testing.assert_array_equal(update.starts.generation, [[100], [104]])
    assert update.priorities is not None
    assert update.priorities.dtype == np.float64
    np.testing.assert_array_equal(update.priorities, [0.25, 4.0])
    assert update.columns == {}
    assert make_update().priorities is not None  # may be called again


def test_other_columns_leave_the_latent_version_alone() -> None:
    output = TrainOutput({}, {"reward": torch.ones(2, 3)})
    make_update = begin_write_back(DATA, BATCH, ADDRESSES, output, version=6)
    assert make_update is not None
    assert make_update().columns.keys() == {"reward"}


def test_priorities_that_no_selector_uses_are_not_sent() -> None:
    output = TrainOutput({}, priorities=torch.tensor([0.25, 4.0]))
    assert begin_write_back(DATA, BATCH, ADDRESSES, output, version=6) is None


def test_nothing_to_write_is_none() -> None:
    assert begin_write_back(DATA, BATCH, ADDRESSES, TrainOutput({}), version=6) is None
