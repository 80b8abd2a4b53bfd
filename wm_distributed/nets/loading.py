"""Taking over a model's parameters from a checkpoint, or saying what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from wm_distributed.errors import CheckpointError


def load_model(model: nn.Module, state: Mapping[str, Any], family: str) -> None:
    """Loads a trainable's ``state["model"]``, of which ``state["family"]`` must be this one.

    Raises:
        CheckpointError: It is of another family, or a tensor is missing, unknown or of another
            shape; the message names each. The model is as it was.
    """
    if state.get("family") != family:
        raise CheckpointError(
            f"expected a checkpoint of family {family!r}, got {state.get('family')!r}"
        )
    own, loaded = model.state_dict(), state.get("model", {})
    wrong = []
    for name in sorted(own.keys() | loaded.keys()):
        expected = tuple(own[name].shape) if name in own else None
        got = tuple(loaded[name].shape) if name in loaded else None
        if expected != got:
            wrong.append(f"{name} should have shape {expected}, got {got}")
    if wrong:
        raise CheckpointError(
            f"checkpoint of another size: {'; '.join(wrong)}; use the configuration and "
            "environment that it was saved with"
        )
    model.load_state_dict(loaded)
