"""A search through real Ray, whose processes are killed, against one that nobody disturbs."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from wm_distributed.config import EnvConfig, RunConfig, RuntimeConfig
from wm_distributed.errors import CheckpointError, ConfigError, EnvError
from wm_distributed.launch import search_teams
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.runtime import RunStatus, make_runtime
from wm_distributed.launch.search_plan import plan_search
from wm_distributed.launch.search_runtime import SearchRuntime, make_search_runtime
from wm_distributed.launch.search_teams import SearchTeams
from wm_distributed.testing.counting_search import counting_search

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]
PATIENCE_SECONDS = 200.0
Journal = Callable[[Path], list[bytes]]
GENERATIONS = 120
EVALUATED = GENERATIONS * 6 * 2 + GENERATIONS // 10 * 4  # training episodes, and held-out ones


def search_on(kind: Literal["inline", "ray"]) -> RunConfig[Any]:
    return counting_search(RuntimeConfig(kind=kind), GENERATIONS)


def make(config: RunConfig[Any], run_dir: Path, *, resume: bool = False) -> SearchRuntime:
    run_dir.mkdir(exist_ok=True)
    return make_search_runtime(preflight(config, run_dir), None, resume=resume)


def finish(runtime: SearchRuntime, look: Callable[[RunStatus], None] = lambda _: None) -> None:
    """Searches to the end, with a look at each status, and stops."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        runtime.start()
        while not (status := runtime.poll()).finished:
            assert time.monotonic() < deadline, status
            look(status)
        runtime.stop(checkpoint=True)
    finally:
        runtime.stop(checkpoint=False)


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, journal: Journal
) -> tuple[Path, np.ndarray[Any, Any]]:
    """Run directory and solution of a search in one process."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    runtime = make(search_on("inline"), run_dir)
    finish(runtime)
    assert len(journal(run_dir)) == len(set(journal(run_dir))) == EVALUATED
    return run_dir, runtime.solution()


class Killer:
    """Kills an evaluator after every so many results, and the server once."""

    def __init__(self, every: int, evaluators: int) -> None:
        self._every = every
        self._evaluators = evaluators
        self._next = every
        self._chance = random.Random(5)
        self.killed: list[str] = []
        self.last: RunStatus | None = None

    def __call__(self, status: RunStatus) -> None:
        self.last = status
        done = status.metrics.get("search/evaluations", 0)
        if done < self._next or len(self.killed) > self._evaluators:
            return
        role = "search" if len(self.killed) == self._evaluators // 2 else "evaluator"
        living = [process.pid for process in status.processes if process.role == role]
        pid = self._chance.choice(living)
        if pid:
            os.kill(pid, signal.SIGKILL)
            self.killed.append(role)
            self._next = done + self._every


def test_evaluators_and_server_killed_change_nothing_and_nothing_counts_twice(
    undisturbed: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path, journal: Journal
) -> None:
    runtime = make(search_on("ray"), tmp_path)
    killer = Killer(every=150, evaluators=4)
    finish(runtime, killer)
    # On a slow machine a look may come so late that the search ends before the last kill.
    assert killer.killed.count("evaluator") >= 2
    assert killer.killed.count("search") == 1
    assert journal(tmp_path) == journal(undisturbed[0])
    assert np.array_equal(runtime.solution(), undisturbed[1])
    assert killer.last is not None
    assert killer.last.metrics["run/recoveries"] >= 2
    assert killer.last.metrics["search/conflicting_results"] == 0


DRIVER = """
import sys
from pathlib import Path
from test_search_ray import make, search_on
from wm_distributed.launch import search_ray

search_ray._POLL_SECONDS = 0.1
runtime = make(search_on("ray"), Path(sys.argv[1]))
runtime.start()
while True:
    print(runtime.poll().metrics.get("search/evaluations", 0), flush=True)
"""


def test_a_search_whose_driver_is_killed_resumes_where_it_was(
    undisturbed: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path, journal: Journal
) -> None:
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path])}
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        assert driver.stdout is not None
        while float(driver.stdout.readline()) < 300:
            pass
        driver.kill()
    before = len(journal(tmp_path))
    assert 300 <= before < EVALUATED
    with pytest.raises(CheckpointError, match="already holds a search"):
        make(search_on("inline"), tmp_path)
    runtime = make(search_on("inline"), tmp_path, resume=True)
    finish(runtime)
    assert journal(tmp_path) == journal(undisturbed[0])
    assert np.array_equal(runtime.solution(), undisturbed[1])


def test_evaluators_are_recycled_and_the_solution_is_evaluated(tmp_path: Path) -> None:
    config = search_on("ray")
    config = replace(
        config,
        search=replace(config.search, max_episodes=240, num_evaluators=1, recycle_episodes=80),
        runtime=RuntimeConfig(kind="ray"),
    )
    runtime = make_runtime(config, tmp_path, resume=False)
    pids = set()
    try:
        runtime.start()
        while not (status := runtime.poll()).finished:
            pids |= {p.pid for p in status.processes if p.role == "evaluator" and p.pid}
            assert status.metrics.get("run/recoveries", 0) == 0
        final = runtime.evaluate_final(6)
    finally:
        runtime.stop(checkpoint=False)
    assert len(pids) >= 3
    assert len({result.seed for result in final.agent.results}) == 6
    assert final.agent.frames is not None
    assert len(final.random.results) == 6


def test_more_evaluators_than_cores_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = search_on("ray")
    config = replace(config, search=replace(config.search, num_evaluators=3))
    search = plan_search(preflight(config, tmp_path), None, resume=False)
    monkeypatch.setattr(search_teams, "free_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ConfigError, match=r"num_evaluators 3 needs .* cores, but 2 are free"):
        SearchTeams(search, None).share(None)


FAILING = """
from wm_distributed.testing import CountingEnv

class FailingEnv(CountingEnv):
    def step(self, action):
        raise RuntimeError("the pole fell off")
"""


def test_an_environment_that_always_fails_ends_the_run_with_its_own_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_env.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    config = replace(search_on("ray"), env=EnvConfig(id="failing_env:FailingEnv"))
    with pytest.raises(EnvError, match="RuntimeError: the pole fell off"):
        finish(make(config, tmp_path / "run"))
