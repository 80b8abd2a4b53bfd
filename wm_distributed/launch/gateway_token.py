"""The gateway's token: read where nobody else sees it, and asked for where it is needed."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from wm_distributed.config import GatewayConfig
from wm_distributed.errors import ConfigError

TOKEN_VARIABLE = "WM_DISTRIBUTED_GATEWAY_TOKEN"
_MIN_CHARS = 16
_MAX_CHARS = 512


def read_token(gateway: GatewayConfig) -> str:
    """The token that clients must know; empty where there is none and none is needed.

    Raises:
        ConfigError: It cannot be read, is too short or long, or is missing beyond this machine.
    """
    if gateway.token_file is None:
        where, token = f"the environment variable {TOKEN_VARIABLE}", os.environ.get(TOKEN_VARIABLE)
    else:
        where, token = f"gateway.token_file {gateway.token_file}", _read(Path(gateway.token_file))
    if token is None:
        if not _is_loopback(gateway.host):
            raise ConfigError(
                f"gateway.host {gateway.host!r} can be reached from other machines, and there is "
                f"no token: set gateway.token_file or {TOKEN_VARIABLE}, or listen at 127.0.0.1"
            )
        return ""
    if not _MIN_CHARS <= len(token) <= _MAX_CHARS:
        raise ConfigError(
            f"{where} holds {len(token)} characters: a token has {_MIN_CHARS} to {_MAX_CHARS}, "
            "such as those that `openssl rand -hex 32` prints"
        )
    return token


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"gateway.token_file {path} cannot be read: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
