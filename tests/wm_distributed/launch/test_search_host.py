"""The search with its files, without evaluators: returns are a function of the parameters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wm_distributed.config import RunConfig, StopConfig
from wm_distributed.errors import CheckpointError
from wm_distributed.families.linear.presets import debug
from wm_distributed.launch.search_files import SearchFiles
from wm_distributed.launch.search_host import SearchHost, SearchSpec
from wm_distributed.search_config import SearchConfig
from wm_distributed.seeding import EVALUATION_START
from wm_distributed.types import EpisodeResult


def config(**search: Any) -> RunConfig[Any]:
    values = {"population_size": (6,), "sigma": (0.5,), "episodes": 2, "held_out_every": 3}
    values |= {"held_out_episodes": 3, "max_episodes": 6 * 2 * 8} | search
    return replace(debug(), search=SearchConfig(**values), stop=StopConfig(env_steps=None))


def spec(folder: Path, run: RunConfig[Any] | None = None, checksum: int = 0) -> SearchSpec:
    return SearchSpec(
        config=run or config(),
        files=SearchFiles(folder),
        start=np.zeros(4),
        checksum=checksum,
    )


def work(host: SearchHost, results: int = 10**6) -> None:
    """Answers so many tasks, one by one."""
    for _ in range(results):
        tasks = host.lease("a", 1)
        if not tasks:
            break
        for task, params in tasks:
            value = -float(((params - 1) ** 2).sum())
            host.tell([(task, EpisodeResult(value, 10, task.seed))])


def course(folder: Path) -> bytes:
    return (folder / "results.jsonl").read_bytes()


def test_a_search_that_lost_its_process_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = SearchHost(spec(tmp_path / "whole"))
    work(whole)
    whole.close()
    folder = tmp_path / "parts"
    for results in (0, 17, 5, 40, 10**6):
        host = SearchHost(spec(folder))
        work(host, results)
        host.close()  # without saving, as a kill would
    assert course(folder) == course(tmp_path / "whole")
    assert np.array_equal(host.solution(), whole.solution())
    assert np.array_equal(host.solution("newest"), whole.solution("newest"))


def test_it_saves_now_and_then(tmp_path: Path) -> None:
    now = 0.0
    host = SearchHost(spec(tmp_path), clock=lambda: now)
    before = SearchFiles(tmp_path).load()
    work(host, 20)
    assert SearchFiles(tmp_path).load() == before
    now = 61.0
    work(host, 1)
    state = SearchFiles(tmp_path).load()
    host.close()
    assert state is not None
    assert state["server"]["journal_bytes"] == len(course(tmp_path))


def test_news_are_told_by_what_is_known(tmp_path: Path) -> None:
    host = SearchHost(spec(tmp_path))
    work(host)
    host.close()
    news = host.news({})
    assert [record.generation for record in news.generations] == list(range(8))
    assert [record.generation for record in news.evaluations] == [3, 6, 8]
    assert news.evaluations[0].lengths == (10, 10, 10)
    assert "max_episodes" in news.ended
    later = host.news({0: (6, 2)})
    assert [record.generation for record in later.generations] == [6, 7]
    assert [record.generation for record in later.evaluations] == [8]


def test_it_ends_at_the_return_that_is_aimed_at(tmp_path: Path) -> None:
    run = replace(config(), stop=StopConfig(env_steps=None, eval_return=-3.0))
    host = SearchHost(spec(tmp_path, run))
    work(host)
    host.close()
    assert "aimed at -3" in host.news({}).ended
    assert len(host.news({}).evaluations) < 3
    assert host.lease("a", 1) == []


def test_the_last_evaluation_has_seeds_of_its_own_and_survives_late_results(
    tmp_path: Path,
) -> None:
    host = SearchHost(spec(tmp_path))
    work(host, 40)
    late = host.lease("slow", 1)
    held_out = {task.seed for task, _ in host._search.ask() if task.seed >= EVALUATION_START}
    host.begin_final(host.solution(), 4)
    tasks = host.lease("a", 9)
    seeds = {task.seed for task, _ in tasks}
    assert len(seeds) == 4
    assert min(seeds) >= EVALUATION_START
    assert not seeds & held_out
    assert host.tell([(late[0][0], EpisodeResult(1.0, 1, late[0][0].seed))]) == 1
    assert host.release("a") == 4
    assert host.news({}).final is None
    for task, _ in host.lease("b", 9):
        host.tell([(task, EpisodeResult(2.0, 5, task.seed))])
    final = host.news({}).final
    host.close()
    assert final is not None
    assert [result.episode_return for result in final] == [2.0] * 4


def test_a_search_with_another_seed_size_or_weights_is_refused(tmp_path: Path) -> None:
    host = SearchHost(spec(tmp_path))
    work(host, 30)
    host.close()
    with pytest.raises(CheckpointError, match=r"population_size \[6\], not \[8\]"):
        SearchHost(spec(tmp_path, config(population_size=(8,))))
    with pytest.raises(CheckpointError, match="seed 0, not 9"):
        SearchHost(spec(tmp_path, replace(config(), seed=9)))
    with pytest.raises(CheckpointError, match=r"other weights.*0, not 77"):
        SearchHost(spec(tmp_path, checksum=77))


def test_a_journal_alone_is_enough_unless_it_is_of_another_search(tmp_path: Path) -> None:
    host = SearchHost(spec(tmp_path))
    work(host, 50)
    asked = [task for task, _ in host._search.ask()]
    host.close()
    SearchFiles(tmp_path).state.unlink()
    again = SearchHost(spec(tmp_path))
    assert [task for task, _ in again._search.ask()] == asked
    again.close()
    SearchFiles(tmp_path).state.unlink()
    with pytest.raises(CheckpointError, match=r"results.jsonl is not of this search"):
        SearchHost(spec(tmp_path, replace(config(), seed=9)))


@pytest.mark.parametrize(
    "changed",
    [{"weight_decay": 5.0}, {"quorum": 0.5}, {"episodes_up_to": 8}, {"max_episodes": 6 * 2 * 4}],
    ids=lambda changed: next(iter(changed)),
)
@pytest.mark.parametrize("saved", [True, False])
def test_other_settings_after_a_kill_do_not_touch_what_was_found(
    changed: dict[str, Any], saved: bool, tmp_path: Path
) -> None:
    host = SearchHost(spec(tmp_path))
    work(host, 60)
    generations, mean = host.news({}).generations, host.solution("newest")
    host.close()
    if not saved:
        SearchFiles(tmp_path).state.unlink()
    resumed = SearchHost(spec(tmp_path, config(**changed)))
    assert resumed.news({}).generations == generations
    assert np.array_equal(resumed.solution("newest"), mean)
    work(resumed)
    end = resumed.solution("newest")
    resumed.close()
    again = SearchHost(spec(tmp_path, config(**changed)))
    assert np.array_equal(again.solution("newest"), end)
    again.close()


def test_settings_that_decide_the_tasks_are_refused_without_a_state_too(tmp_path: Path) -> None:
    host = SearchHost(spec(tmp_path))
    work(host, 20)
    host.close()
    SearchFiles(tmp_path).state.unlink()
    with pytest.raises(CheckpointError, match="sigma"):
        SearchHost(spec(tmp_path, config(sigma=(3.0,))))
    SearchFiles(tmp_path).settings.write_text("{")
    with pytest.raises(CheckpointError, match=r"settings\.json is damaged"):
        SearchHost(spec(tmp_path))
