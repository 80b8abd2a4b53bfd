import pytest
import torch

from learners.metric_window import MetricWindow


def test_means_are_over_the_steps_since_the_last_reading() -> None:
    window = MetricWindow()
    window.add({"loss": torch.tensor(1.0), "rate": 0.5})
    window.add({"loss": torch.tensor(4, dtype=torch.int64), "rate": 1.5})
    window.add({"rare": torch.tensor(7.0, dtype=torch.bfloat16)})
    assert window.read() == {"loss": 2.5, "rate": 1.0, "rare": 7.0}
    window.add({"loss": torch.tensor(9.0)})
    assert window.read() == {"loss": 9.0}
    assert window.read() == {}


def test_no_graph_is_kept() -> None:
    window = MetricWindow()
    weight = torch.ones((), requires_grad=True)
    window.add({"loss": weight * 2})
    assert window.read() == {"loss": 2.0}


def test_values_that_are_not_numbers_pass_through() -> None:
    window = MetricWindow()
    window.add({"loss": torch.tensor(float("nan"))})
    assert window.read()["loss"] == pytest.approx(float("nan"), nan_ok=True)
