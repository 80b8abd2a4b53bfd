import pytest

from wm_distributed.config import EvalConfig, StopConfig
from wm_distributed.launch.limits import Schedule
from wm_distributed.launch.runtime import Evaluation
from wm_distributed.types import EpisodeResult


def evaluation(*returns: float) -> Evaluation:
    results = tuple(EpisodeResult(value, 1) for value in returns)
    return Evaluation(env_steps=0, train_steps=0, version=1, results=results)


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (StopConfig(env_steps=100), "100 environment steps"),
        (StopConfig(env_steps=None, train_steps=20), "20 train steps"),
        (StopConfig(env_steps=None, wall_seconds=5.0), "5 s of training"),
        (
            StopConfig(env_steps=None, train_steps=99, eval_return=4.0),
            "an evaluation returned 4 or",
        ),
        (StopConfig(env_steps=101, train_steps=21, wall_seconds=5.1, eval_return=4.1), ""),
    ],
)
def test_a_run_ends_at_the_limit_that_is_reached(stop: StopConfig, reason: str) -> None:
    now = 100.0
    schedule = Schedule(stop, EvalConfig(), lambda: now)
    schedule.begin(trained_seconds=3.0)
    now = 102.0
    schedule.note(evaluation(3.0, 5.0))
    found = schedule.reason_to_end(100, 20)
    assert found.find(reason) >= 0 if reason else found == ""


def test_as_many_good_evaluations_as_are_asked_for_have_to_follow_each_other() -> None:
    stop = StopConfig(env_steps=None, eval_return=4.0, eval_returns_in_a_row=2)
    schedule, reasons = Schedule(stop, EvalConfig()), []
    for value in (4.0, 3.9, 4.0, 5.0):
        schedule.note(evaluation(value))
        reasons.append(schedule.reason_to_end(100, 20))
    assert reasons[:3] == ["", "", ""]
    assert reasons[3] == "2 evaluations in a row returned 4 or more, as aimed at"


def test_evaluations_are_due_once_at_each_multiple_and_missed_ones_are_not_made_up_for() -> None:
    schedule = Schedule(StopConfig(), EvalConfig(every_env_steps=10))
    due = [schedule.evaluation_due(steps, 7) for steps in (0, 9, 10, 11, 35, 39, 40)]
    assert due == [None, None, 1, None, 3, None, 4]


def test_a_resumed_run_does_not_evaluate_again_where_it_came_from() -> None:
    schedule = Schedule(StopConfig(), EvalConfig(every_env_steps=10))
    schedule.begin(env_steps=25)
    assert [schedule.evaluation_due(steps, 0) for steps in (25, 29, 30)] == [None, None, 3]


def test_evaluations_by_train_steps_come_also_where_no_environment_steps_are_taken() -> None:
    schedule = Schedule(StopConfig(), EvalConfig(every_train_steps=100))
    schedule.begin(train_steps=250)
    assert [schedule.evaluation_due(0, steps) for steps in (250, 299, 300)] == [None, None, 3]


def test_each_evaluation_has_a_number_of_its_own() -> None:
    schedule = Schedule(StopConfig(), EvalConfig(every_env_steps=10, every_train_steps=100))
    due = [schedule.evaluation_due(*steps) for steps in ((10, 90), (10, 110), (20, 110), (30, 200))]
    assert due == [1, 2, 3, 5]


def test_no_evaluation_is_due_where_none_is_wanted() -> None:
    assert Schedule(StopConfig(), EvalConfig(every_env_steps=0)).evaluation_due(10**6, 99) is None
