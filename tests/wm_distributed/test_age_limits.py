import logging
from typing import Any

import numpy as np
import pytest

from wm_distributed.age_limits import AgeLimits
from wm_distributed.config import ReplayConfig


def limits(newest_version: int = 10, **config: Any) -> AgeLimits:
    ages = AgeLimits(ReplayConfig(**config))
    ages.newest_version = newest_version
    return ages


# Two context steps, then two trained ones; versions 10, 7 and 4.
COLUMNS = {
    "policy_version": np.array([[0, 0, 10, 10], [0, 0, 7, 10], [10, 10, 4, 4]], np.int32),
    "latent_version": np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 6, 10]], np.int32),
}


@pytest.mark.parametrize(
    ("config", "admitted"),
    [
        ({}, [True, True, True]),
        ({"max_policy_lag": 6}, [True, True, True]),
        ({"max_policy_lag": 5}, [True, True, False]),
        ({"max_policy_lag": 0}, [True, False, False]),
        ({"max_latent_age": 3}, [True, True, False]),
        ({"max_policy_lag": 6, "max_latent_age": 4}, [True, True, True]),
    ],
)
def test_the_oldest_trained_step_decides(config: dict[str, Any], admitted: list[bool]) -> None:
    for when_stale in ("discard", "pause"):
        ages = limits(**config, when_stale=when_stale)
        assert ages.admit(COLUMNS, context=2).tolist() == admitted
        assert ages.stale_sequences == admitted.count(False)


def test_with_warn_all_are_admitted_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ages = limits(max_policy_lag=5)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ages.admit(COLUMNS, context=2).all()
    assert ages.stale_sequences == 3
    (record,) = caplog.records
    assert "older than replay.max_policy_lag 5 allows at version 10" in record.message


def test_columns_that_were_not_sampled_are_not_judged() -> None:
    ages = limits(max_policy_lag=0, max_latent_age=0, when_stale="discard")
    assert ages.admit({"action": np.zeros((2, 4))}, context=0).all()
