"""What is installed and which engine serves; errors say what to install."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

from wm_distributed.config import EnvConfig
from wm_distributed.errors import ConfigError, UnknownNameError


def has(package: str) -> bool:
    """Whether a top-level package is installed; imports nothing."""
    return importlib.util.find_spec(package) is not None


def require(package: str, extra: str, env_id: str) -> Any:
    """The imported package.

    Raises:
        ConfigError: It is not installed, or a library that it needs is missing.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"environment {env_id!r} needs the package {package} ({error}); install it with "
            f"pip install 'wm-distributed[{extra}]'"
        ) from error


def use_envpool(config: EnvConfig, *, other: str, extra: str) -> bool:
    """Whether EnvPool serves, and not the other engine: where it is installed, unless told.

    Args:
        config: Says which engine is wanted.
        other: Package that serves if EnvPool does not.
        extra: Extra of this distribution that installs both.

    Raises:
        ConfigError: The package that is to serve is not installed.
    """
    engine = config.engine
    if engine == "auto":
        engine = "gymnasium" if has(other) and not has("envpool") else "envpool"
    require("envpool" if engine == "envpool" else other, extra, config.id)
    return engine == "envpool"


def refuse_envpool(config: EnvConfig) -> None:
    """Raises ConfigError if EnvPool is asked for where it does not serve."""
    if config.engine == "envpool":
        raise ConfigError(f"environment {config.id!r} is not served by EnvPool; leave env.engine")


def check_name(env_id: str, known: Iterable[str]) -> None:
    """Raises UnknownNameError, with near matches, if the id is not known."""
    names = list(known)
    if env_id not in names:
        raise UnknownNameError("environment", env_id, names)


def check_options(config: EnvConfig, known: Iterable[str]) -> None:
    """Raises UnknownNameError, with near matches, for an option that the environment lacks."""
    names = list(known)
    for option in config.options:
        if option not in names:
            raise UnknownNameError(f"option of environment {config.id!r}", option, names)
