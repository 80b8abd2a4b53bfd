"""The gateway's secrets: the token, which its clients know, and a key, which they do not."""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path

from wm_distributed.config import GatewayConfig
from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.launch.run_dir import writing

TOKEN_VARIABLE = "WM_DISTRIBUTED_GATEWAY_TOKEN"
_MIN_CHARS = 16
_MAX_CHARS = 512
_KEY_FILE = "gateway.key"
_KEY_BYTES = 32


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


def ticket_key(run_dir: Path) -> bytes:
    """The run's own secret, by which its gateways know again what they gave to their clients.

    It is made once, and stays with the run: clients go on when the gateway or the run has died.

    Raises:
        RunDirError: It cannot be read or written, or is damaged.
    """
    path = run_dir / _KEY_FILE
    with writing(path):
        if not path.exists():
            part = path.with_name(f".{_KEY_FILE}.part")
            part.unlink(missing_ok=True)
            part.touch(mode=0o600)
            part.write_bytes(secrets.token_bytes(_KEY_BYTES))
            part.replace(path)
        key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise RunDirError(
            f"{path} is damaged: expected {_KEY_BYTES} bytes, got {len(key)}; remove it, and "
            "clients of before begin anew"
        )
    return key


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
