import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from learners.process_group import (
    connect_store,
    host_store,
    join_group,
    leave_group,
    local_batch_size,
)
from wm_distributed.collective import Collective
from wm_distributed.errors import ConfigError, DeadlineError

CPU = torch.device("cpu")
RANK_MAIN = Path(__file__).with_name("rank_main.py")
train_rank = runpy.run_path(str(RANK_MAIN))["train"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What two learner ranks have trained, each in two micro-batches in a process of its own."""
    folder = tmp_path_factory.mktemp("ranks")
    store = host_store("127.0.0.1", 60)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(RANK_MAIN), str(rank), "2", str(store.port),
             str(folder / f"{rank}.npz")]
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


def test_ranks_have_identical_parameters(ranks: list[dict[str, np.ndarray]]) -> None:
    for name in ("weight", "bias"):
        np.testing.assert_array_equal(ranks[0][name], ranks[1][name])


def test_two_ranks_in_micro_batches_train_as_one_rank_on_the_whole_global_batch(
    ranks: list[dict[str, np.ndarray]],
) -> None:
    steps = len(ranks[0]["losses"])
    alone = train_rank(Collective(), stop_at=steps)
    losses = (ranks[0]["losses"] + ranks[1]["losses"]) / 2
    np.testing.assert_allclose(losses, alone["losses"], rtol=1e-5)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(ranks[0][name], alone[name], rtol=1e-5)
    # The control: one step fewer, or only one rank's part of the batch, is another model.
    shorter = train_rank(Collective(), stop_at=steps - 1)
    assert not np.allclose(ranks[0]["weight"], shorter["weight"], rtol=1e-3)
    assert not np.allclose(ranks[0]["losses"], alone["losses"], rtol=1e-2)


def test_all_ranks_stop_after_the_same_step_when_one_wants_to(
    ranks: list[dict[str, np.ndarray]],
) -> None:
    # One rank wants to stop at 12; they vote every five steps.
    assert [len(rank["losses"]) for rank in ranks] == [15, 15]


def test_rank_0_alone_publishes(ranks: list[dict[str, np.ndarray]]) -> None:
    assert ranks[0]["published"].tolist() == [1, 2, 3]  # at the start, at step 10, at the end
    assert ranks[1]["published"].tolist() == []


def test_ranks_gather_and_broadcast(ranks: list[dict[str, np.ndarray]]) -> None:
    for rank in ranks:
        assert rank["gathered"].tolist() == [0, 0, 1, 1]
        assert rank["broadcast"].tolist() == [0]


def test_a_batch_is_divided_equally_or_refused_with_the_numbers() -> None:
    assert local_batch_size(16, 4) == 4
    assert local_batch_size(16, 1) == 16
    with pytest.raises(ConfigError, match=r"a batch of 16 sequences.*3 learner ranks.*divisors"):
        local_batch_size(16, 3)


def test_a_rank_that_does_not_come_is_a_deadline_error() -> None:
    with pytest.raises(DeadlineError, match=r"rank 0: not all 2 ranks joined within 0\.2 s"):
        join_group(host_store("127.0.0.1", 5), 0, 2, CPU, 0.2)
    # and the group can be formed anew
    assert join_group(host_store("127.0.0.1", 5), 0, 1, CPU, 5).world_size == 1
    leave_group()
    leave_group()  # outside a group: nothing to do


def test_a_rank_0_that_is_not_there_is_a_deadline_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DeadlineError, match=rf"rank 0 at 127\.0\.0\.1:{port} within 0\.1 s"):
        connect_store("127.0.0.1", port, 0.1)
