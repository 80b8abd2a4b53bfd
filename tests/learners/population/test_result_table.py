import math

import numpy as np
import pytest

from learners.population.result_table import ResultTable
from wm_distributed.errors import CheckpointError, SearchError
from wm_distributed.types import MEAN, CandidateTask, EpisodeResult


def make_table() -> ResultTable:
    return ResultTable(1, 7, np.arange(6.0).reshape(3, 2), seeds=[40, 50])


def test_every_candidate_gets_every_seed() -> None:
    tasks = [(task, params.tolist()) for task, params in make_table().open_tasks()]
    assert tasks == [
        (CandidateTask(1, 7, candidate, episode, seed), params)
        for candidate, params in enumerate(([0.0, 1.0], [2.0, 3.0], [4.0, 5.0]))
        for episode, seed in enumerate((40, 50))
    ]


def test_a_result_closes_its_task_once() -> None:
    table = make_table()
    task = CandidateTask(1, 7, 1, 0, 40)
    assert table.record(task, EpisodeResult(3.0, 5, 40)) == "new"
    assert task not in [open_task for open_task, _ in table.open_tasks()]
    assert table.record(task, EpisodeResult(3.0, 5)) == "repeated"
    assert table.record(task, EpisodeResult(4.0, 5)) == "conflicting"
    assert table.returns[1, 0] == 3.0
    assert (table.num_open, table.num_done) == (5, 1)


def test_a_failed_episode_is_a_result_too() -> None:
    table = make_table()
    task = CandidateTask(1, 7, 1, 0, 40)
    assert table.record(task, EpisodeResult(math.nan, 5)) == "new"
    assert table.record(task, EpisodeResult(math.nan, 5)) == "repeated"
    assert table.record(task, EpisodeResult(1.0, 5)) == "conflicting"
    assert math.isnan(table.returns[1, 0])


def test_a_candidate_is_complete_with_its_last_episode() -> None:
    table = make_table()
    table.record(CandidateTask(1, 7, 2, 1, 50), EpisodeResult(1.0, 1))
    assert table.complete.tolist() == [False, False, False]
    table.record(CandidateTask(1, 7, 2, 0, 40), EpisodeResult(1.0, 1))
    assert table.complete.tolist() == [False, False, True]


@pytest.mark.parametrize(
    "task",
    [
        CandidateTask(1, 7, 3, 0, 40),
        CandidateTask(1, 7, -1, 0, 40),
        CandidateTask(1, 7, 0, 2, 40),
        CandidateTask(1, 7, 0, 0, 50),
    ],
)
def test_tasks_that_were_never_given_out_are_refused(task: CandidateTask) -> None:
    with pytest.raises(SearchError, match="is no task of this search"):
        make_table().record(task, EpisodeResult(1.0, 1))


def test_an_episode_of_another_seed_is_refused() -> None:
    with pytest.raises(SearchError, match="a result of the seed 50"):
        make_table().record(CandidateTask(1, 7, 0, 0, 40), EpisodeResult(1.0, 1, seed=50))


def test_the_mean_is_a_candidate_of_its_own() -> None:
    table = ResultTable(0, 3, np.ones((1, 2)), [9], MEAN)
    ((task, _),) = table.open_tasks()
    assert task == CandidateTask(0, 3, MEAN, 0, 9)
    assert table.record(task, EpisodeResult(2.0, 1)) == "new"


def test_a_restored_table_asks_for_the_rest() -> None:
    table = make_table()
    table.record(CandidateTask(1, 7, 2, 1, 50), EpisodeResult(1.5, 1))
    table.record(CandidateTask(1, 7, 0, 0, 40), EpisodeResult(math.nan, 1))
    other = make_table()
    other.load_state_dict(table.state_dict())
    assert [task for task, _ in other.open_tasks()] == [task for task, _ in table.open_tasks()]
    assert np.array_equal(other.returns, table.returns, equal_nan=True)
    assert other.complete.tolist() == table.complete.tolist()


def test_results_of_another_shape_are_refused() -> None:
    state = ResultTable(1, 7, np.zeros((2, 2)), [40, 50]).state_dict()
    with pytest.raises(CheckpointError, match=r"returns of shape \(3, 2\)"):
        make_table().load_state_dict(state)
