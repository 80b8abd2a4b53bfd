from wm_distributed.launch.aggregate import aggregate


def test_each_metric_is_combined_as_the_table_says() -> None:
    reported = [
        {"actor/env_steps": 3.0, "actor/return_mean": 1.0, "learner/version": 2.0},
        {"actor/env_steps": 4.0, "actor/return_mean": 2.0, "learner/version": 5.0},
        {"actor/env_steps": 10.0, "train/loss": 3.0},
        {"train/loss": 1.0},
    ]
    assert aggregate(reported) == {
        "actor/env_steps": 17.0,
        "actor/return_mean": 1.5,
        "learner/version": 5.0,
        "train/loss": 2.0,
    }


def test_nothing_reported_is_nothing() -> None:
    assert aggregate([]) == {}
