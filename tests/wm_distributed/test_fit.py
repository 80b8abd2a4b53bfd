import torch

from wm_distributed.fit import misfits, shapes

OWN = {"model": {"in": torch.zeros(3, 4), "out": torch.zeros(2)}, "moments": [torch.zeros(14), 0]}


def test_tensors_that_differ_are_named_with_both_shapes() -> None:
    theirs = {"model": {"in": torch.zeros(5, 4), "old": 1.0}, "moments": [torch.zeros(22), 0]}
    assert misfits(theirs, shapes(OWN)) == (
        "model.in has (5, 4) there and (3, 4) here, model.out has nothing there and (2,) here, "
        "moments.0 has (22,) there and (14,) here, model.old has float there and nothing here"
    )


def test_only_the_first_are_listed() -> None:
    theirs = {str(number): torch.zeros(number) for number in range(8)}
    assert misfits(theirs, {}).endswith("4 has (4,) there and nothing here, and 3 more")


def test_equal_shapes_leave_the_environment() -> None:
    assert "another environment" in misfits(OWN, shapes(OWN))
