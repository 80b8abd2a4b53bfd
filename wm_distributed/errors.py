"""Errors that a user, a file, a network or a dead process can cause.

Each message says what was expected, what came, where, and what to do. The command line prints the
message of a :class:`WmError` without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WmError(Exception):
    """Base class: something outside this program's own logic went wrong."""


class ConfigError(WmError, ValueError):
    """A setting, or a combination of settings, cannot work."""


class UnknownNameError(ConfigError):
    """A name that is not in a table; the message lists near matches."""

    def __init__(
        self, kind: str, name: str, known: Iterable[str], patterns: Iterable[str] = ()
    ) -> None:
        """Builds the message.

        Args:
            kind: What the name should be, such as ``"preset"``.
            name: What was given.
            known: All valid names.
            patterns: Listed instead of them where they are many and none is near.
        """
        names = sorted(set(known))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"known: {', '.join(patterns or names)}"
        )
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class EnvError(WmError):
    """An environment raised, or returned what its spaces do not allow."""


class CheckpointError(WmError):
    """A checkpoint is missing, damaged, or made by another family, size or environment."""


class RunDirError(WmError):
    """A run directory cannot be created, written or read."""


class WorkerDiedError(WmError):
    """A remote process died, or could not be reached, during a call."""


class DeadlineError(WmError, TimeoutError):
    """A wait ended without what it waited for; the message names it."""


class DivergedError(WmError):
    """What is trained has become infinite or not a number; its weights are worth nothing."""


class ReplayError(WmError):
    """Replay was asked for something that it cannot hold or give."""


class EndOfSweepError(ReplayError):
    """Every stored step has been given once; there is no further batch."""


class SearchError(WmError):
    """A population search was given a result that it cannot use."""


class CodecError(WmError, ValueError):
    """Bytes that are not a valid message of this system."""


class GatewayError(WmError):
    """A client of the gateway asked for what it may not have, or sent what cannot be stored."""
