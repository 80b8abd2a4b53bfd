"""What users name as ``module:attribute``: environments, presets and families of their own."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from wm_distributed.errors import ConfigError


def import_named(kind: str, path: str) -> Any:
    """The object at ``module:attribute``.

    Args:
        kind: What it is, for messages, such as ``"environment"``.
        path: Where it is.

    Raises:
        ConfigError: There is no such module or attribute, or the module fails while it is
            imported; the message says where.
    """
    name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        hint = "the module must be installed, or its folder be in PYTHONPATH"
        raise ConfigError(f"{kind} {path!r} cannot be imported: {error}; {hint}") from error
    except SystemExit as error:
        raise ConfigError(f"{kind} {path!r} cannot be imported: it calls sys.exit") from error
    except Exception as error:  # whatever a user's module does
        trace = _of_the_module(error)
        raise ConfigError(f"{kind} {path!r} cannot be imported:\n{trace}") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ConfigError(f"{kind} {path!r} cannot be imported: {error}") from error


def _of_the_module(error: Exception) -> str:
    """The traceback without the frames of the import itself."""
    trace = traceback.TracebackException.from_exception(error)
    inner = [frame for frame in trace.stack if not _imports(frame.filename)]
    trace.stack = traceback.StackSummary.from_list(inner)
    return "".join(trace.format(chain=False)).rstrip()


def _imports(filename: str) -> bool:
    return filename.startswith("<frozen importlib") or filename in (importlib.__file__, __file__)
