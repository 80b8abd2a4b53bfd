import numpy as np
import pytest

from learners.population.fixed_solution import ISLAND, FixedSolution
from learners.search_server import SearchServer
from wm_distributed.errors import SearchError
from wm_distributed.types import CandidateTask, EpisodeResult


def test_it_asks_for_one_episode_a_seed_and_keeps_their_order() -> None:
    search = FixedSolution(np.array([1.0, 2.0]), [7, 9])
    server = SearchServer(search, lease_seconds=60.0)
    tasks = server.lease("a", 10)
    assert [(task.island, task.seed, params.tolist()) for task, params in tasks] == [
        (ISLAND, 7, [1.0, 2.0]),
        (ISLAND, 9, [1.0, 2.0]),
    ]
    assert server.tell([(tasks[1][0], EpisodeResult(5.0, 3, 9))]) == 1
    assert not search.should_stop()
    assert server.tell([(tasks[1][0], EpisodeResult(5.0, 3, 9))]) == 0
    assert server.tell([(tasks[0][0], EpisodeResult(4.0, 2, 7))]) == 1
    assert search.should_stop()
    assert search.results() == (EpisodeResult(4.0, 2, 7), EpisodeResult(5.0, 3, 9))
    assert search.best().tolist() == [1.0, 2.0]


def test_a_candidate_of_the_search_is_none_of_its_tasks() -> None:
    search = FixedSolution(np.zeros(2), [7])
    with pytest.raises(SearchError, match="no task"):
        search.tell(CandidateTask(0, 0, 3, 0, 7), EpisodeResult(1.0, 1))
