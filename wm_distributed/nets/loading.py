"""Taking over a model's parameters from a checkpoint, or saying what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from wm_distributed.errors import CheckpointError
from wm_distributed.fit import misfits, shapes
from wm_distributed.nets.sharding import load_full_state


def load_model(model: nn.Module, state: Mapping[str, Any], family: str) -> None:
    """Loads a trainable's ``state["model"]``, of which ``state["family"]`` must be this one.

    Raises:
        CheckpointError: It is of another family, or a tensor is missing, unknown or of another
            shape; the message names the first ones. The model is as it was.
    """
    if state.get("family") != family:
        raise CheckpointError(
            f"expected a checkpoint of family {family!r}, got {state.get('family')!r}"
        )
    own, loaded = shapes(model.state_dict()), state.get("model", {})
    if shapes(loaded) != own:
        raise CheckpointError(
            f"checkpoint of another size: {misfits(loaded, own)}; use the configuration and "
            "environment that it was saved with"
        )
    load_full_state(model, loaded)
