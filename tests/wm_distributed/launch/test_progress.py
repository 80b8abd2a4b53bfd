import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from wm_distributed.config import RunConfig
from wm_distributed.launch.history import History
from wm_distributed.launch.progress import Progress
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import Evaluation, RunStatus

MakeStatus = Callable[..., RunStatus]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A display whose clock is moved by hand, and what it printed."""

    def __init__(self, config: RunConfig[Any], run_dir: RunDir, terminal: bool) -> None:
        self.clock = Clock()
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=terminal, width=100, color_system=None)
        self.history = History(config, clock=self.clock)
        self.progress = Progress(self.history, run_dir, console)

    def show(self, seconds: float, status: RunStatus) -> None:
        self.clock.now = seconds
        self.history.update(status)
        self.progress.update(status)

    @property
    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


@pytest.fixture
def screen(config: RunConfig[Any], run_dir: RunDir) -> Callable[[bool], Screen]:
    return lambda terminal: Screen(config, run_dir, terminal)


def test_a_file_gets_one_line_in_ten_seconds_and_the_last(
    screen: Callable[[bool], Screen], make_status: MakeStatus
) -> None:
    plain = screen(False)
    with plain.progress:
        for second in range(25):
            plain.show(second, make_status(10 * second))
        plain.show(25, make_status(400, finished=True))
    assert [line.split()[0] for line in plain.lines] == ["0:00", "0:10", "0:20", "0:25"]
    assert plain.lines[1] == (
        "0:10 train | env steps 100 (10/s) | train steps 400 (40/s) | ratio 4.1, aimed 4 | "
        "return train 10.00 | lag – | waits: actors 25 % (ratio), learner 4 % (data) | "
        "recoveries 1 | 0:30 left (env steps)"
    )


def test_an_evaluation_is_told_at_once(
    screen: Callable[[bool], Screen],
    make_status: MakeStatus,
    make_evaluation: Callable[..., Evaluation],
) -> None:
    plain = screen(False)
    plain.show(0, make_status(0))
    plain.show(1, make_status(300, evaluations=(make_evaluation([10.0, 30.0], env_steps=300),)))
    assert plain.lines[-1] == "evaluation at 300 env steps: 20.00 ± 10.00 over 2 episodes"


def test_a_terminal_gets_the_whole_picture(
    screen: Callable[[bool], Screen],
    make_status: MakeStatus,
    make_evaluation: Callable[..., Evaluation],
) -> None:
    live = screen(True)
    with live.progress:
        live.show(0, make_status(0))
        live.show(10, make_status(200, evaluations=(make_evaluation([30.0]),)))
    printed = live.file.getvalue()
    last = printed[printed.rindex("╭") :]
    for expected in (
        "counting",
        "seed 0",
        "train  0:10 elapsed, about 0:10 left (env steps)",
        "200 of 400 (20/s)",
        "800 (80/s)",
        "4.1, aimed 4",
        "train 20.00  eval 30.00 ± 0.00  ▁█",
        "actors 25 % (ratio), learner 4 % (data)",
        "1 running, 1 restarting; 1 recoveries",
        "Ctrl-C",
    ):
        assert expected in last, expected


def test_the_last_picture_stays_when_the_run_goes_on_to_other_things(
    screen: Callable[[bool], Screen], make_status: MakeStatus
) -> None:
    live = screen(True)
    with live.progress:
        live.show(0, make_status(123))
        live.progress.waiting("Drawing …")
        assert "Drawing" in live.file.getvalue()
    printed = live.file.getvalue()
    last = printed[printed.rindex("╭") :]
    assert "123 of 400" in last
    assert "Drawing" not in last


def test_notes_are_printed_as_they_are(screen: Callable[[bool], Screen]) -> None:
    plain = screen(False)
    text = "warning: obs[0] must be [1, 2], got [/red] " + "x" * 200
    plain.progress.note(text)
    assert plain.lines == [text]


def test_no_ratio_limit_is_said(screen: Callable[[bool], Screen], make_status: MakeStatus) -> None:
    plain = screen(False)
    plain.show(
        0, replace(make_status(1), metrics={"limiter/ratio": 3.0, "limiter/ratio_aimed": 0.0})
    )
    assert "ratio 3, no limit" in plain.lines[0]


def test_a_search_shows_its_population_and_held_out_scores(
    screen: Callable[[bool], Screen], make_status: MakeStatus, make_evaluation: Any
) -> None:
    metrics = {
        "search/generation": 12.0,
        "search/evaluations": 3_072.0,
        "search/evaluations_per_second": 8.5,
        "search/return_mean": 40.25,
        "search/return_std": 12.0,
        "search/return_max": 71.5,
        "search/candidate_episodes": 4.0,
        "search/reliability": 0.421,
        "search/sigma": 0.0875,
        "search/best_mean": 80.0,
        "search/best_std": 5.0,
        "search/best_episodes": 32.0,
        "evaluator/env_share": 0.75,
        "evaluator/wait_share": 0.02,
    }
    evaluation = make_evaluation([60.0, 64.0], generation=10, phase="controller")
    searching = make_status(5_000, phase="controller", metrics=metrics, evaluations=(evaluation,))
    plain = screen(False)
    with plain.progress:
        plain.show(0, searching)
    assert plain.lines[0].startswith("evaluation at generation 10: 62.00 ± 2.00 over 2 episodes")
    for part in (
        "0:00 controller | generation 12 | episodes 3,072 (8.5/s)",
        "population 40.25 ± 12.00, best 71.50 (episodes each: 4, reliability: 0.42)",
        "held out 62.00 ± 2.00 (2), best 80.00 ± 5.00 (32)",
        "sigma 0.0875",
        "evaluators: env 75 %, wait 2 %",
    ):
        assert part in plain.lines[1]
    live = screen(True)
    with live.progress:
        live.show(0, searching)
    shown = live.file.getvalue()
    for part in ("generation", "5,000 decisions", "62.00 ± 2.00 (2)", "evaluators"):
        assert part in shown
