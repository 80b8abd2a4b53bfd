import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learners.process_group import host_store
from wm_distributed.collective import Collective
from wm_distributed.types import Array

MAIN = Path(__file__).with_name("sharded_main.py")
HEADER_BYTES = 8


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks in processes of their own have trained, sharded and not."""
    folder = tmp_path_factory.mktemp("ranks")
    store = host_store("127.0.0.1", 60)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(MAIN), str(rank), str(store.port),
             str(folder / f"{rank}.pt")]
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def numbers(weights: Array) -> Array:
    return weights[HEADER_BYTES:].view(np.float32)


def equal(found: list[dict[str, float]], expected: list[dict[str, float]]) -> bool:
    """Whether all figures of all steps are the same but for the order of sums."""
    return all(
        one == pytest.approx(other, rel=1e-3, abs=1e-5)
        for one, other in zip(found, expected, strict=True)
    )


def test_a_sharded_group_trains_as_one_whose_ranks_keep_all(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert equal(rank["sharded"], rank["plain"])
        assert equal(rank["sharded_later"], rank["plain_later"])
    assert not equal(ranks[0]["sharded"], ranks[1]["plain"])  # the control: each has its own part
    found, expected, start = (numbers(ranks[0][name]) for name in ("last", "plain_last", "start"))
    moved = np.linalg.norm(expected - start)
    assert moved > 0.01 * np.linalg.norm(start)
    assert np.linalg.norm(found - expected) < 1e-3 * moved


def test_each_rank_holds_its_part_alone(ranks: list[dict[str, Any]]) -> None:
    state = ranks[0]["state"]
    whole = sum(tensor.numel() for tensor in state["model"].values())
    trained = state["optimizers"]["model"]["momentum"].numel()
    assert ranks[0]["own"] + ranks[1]["own"] == whole
    assert ranks[0]["own_trained"] + ranks[1]["own_trained"] == trained
    for rank in ranks:
        assert rank["own"] == pytest.approx(whole / 2, rel=0.05)
        assert rank["own_trained"] == pytest.approx(trained / 2, rel=0.05)


def test_checkpoints_go_from_sharded_ranks_to_whole_ones_and_back(
    ranks: list[dict[str, Any]],
) -> None:
    for rank in ranks:
        assert equal(rank["from_plain"], rank["plain_later"])
        assert equal(rank["from_sharded"], rank["sharded_later"])


def test_one_rank_alone_takes_over_a_checkpoint_of_two_sharded_ones(
    ranks: list[dict[str, Any]],
) -> None:
    build, random_batch, train = (
        runpy.run_path(str(MAIN))[name] for name in ("build", "random_batch", "train")
    )
    torch.set_num_threads(1)
    alone = build(Collective())
    alone.load_state_dict(ranks[0]["state"])
    assert np.array_equal(alone.policy_weights(), ranks[0]["weights"])
    for name, saved in ranks[0]["state"]["optimizers"]["model"].items():
        assert torch.equal(alone.state_dict()["optimizers"]["model"][name], saved), name
    (step,) = train(alone, random_batch(), 1)
    both = np.mean([rank["sharded_later"][0]["loss"] for rank in ranks])
    assert step["loss"] == pytest.approx(both, rel=0.05)  # with other random numbers


def test_rank_0_reports_and_reduces_while_others_wait_for_it(ranks: list[dict[str, Any]]) -> None:
    assert all(np.isfinite(value) for value in ranks[0]["report"].values())
    assert "open_loop_return_imagined" in ranks[0]["report"]
    assert [rank["mean"] for rank in ranks] == [0.5, 0.5]
