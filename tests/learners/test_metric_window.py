import pytest
import torch

from learners.metric_window import MetricWindow
from wm_distributed.errors import DivergedError


def test_means_are_over_the_steps_since_the_last_reading() -> None:
    window = MetricWindow()
    window.add({"loss": torch.tensor(1.0), "rate": 0.5})
    window.add({"loss": torch.tensor(4, dtype=torch.int64), "rate": 1.5})
    window.add({"rare": torch.tensor(7.0, dtype=torch.bfloat16)})
    assert window.read() == {"train/loss": 2.5, "train/rate": 1.0, "train/rare": 7.0}
    window.add({"loss": torch.tensor(9.0)})
    assert window.read() == {"train/loss": 9.0}
    assert window.read() == {}


def test_no_graph_is_kept() -> None:
    window = MetricWindow()
    weight = torch.ones((), requires_grad=True)
    window.add({"loss": weight * 2})
    assert window.read() == {"train/loss": 2.0}


@pytest.mark.parametrize("name", ["loss", "model_loss", "actor_grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_or_gradient_that_is_not_finite_is_refused_by_name(name: str, value: float) -> None:
    window = MetricWindow()
    window.add({name: torch.tensor(2.0), "entropy": torch.tensor(float("nan"))})
    window.refuse_divergence(1)  # the newest is finite, and an entropy may be what it likes
    window.add({name: torch.tensor(value)})
    for _ in range(2):
        with pytest.raises(DivergedError, match=f"train/{name} is {value} at train step 2"):
            window.refuse_divergence(2)


def test_values_that_are_not_numbers_pass_through() -> None:
    window = MetricWindow()
    window.add({"loss": torch.tensor(float("nan"))})
    assert window.read()["train/loss"] == pytest.approx(float("nan"), nan_ok=True)
