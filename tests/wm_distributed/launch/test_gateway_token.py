from dataclasses import replace
from pathlib import Path

import pytest

from wm_distributed.config import GatewayConfig
from wm_distributed.errors import ConfigError, RunDirError
from wm_distributed.launch.gateway_token import TOKEN_VARIABLE, read_token, ticket_key
from wm_distributed.launch.preflight import preflight
from wm_distributed.testing.counting_family import counting_preset

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_a_token_comes_from_a_file_or_else_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert read_token(GatewayConfig(port=1, host="0.0.0.0")) == TOKEN
    file = tmp_path / "token"
    file.write_text("another-token-of-mine\n")
    assert read_token(GatewayConfig(port=1, token_file=str(file))) == "another-token-of-mine"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_on_this_machine_alone_no_token_is_needed(host: str) -> None:
    assert read_token(GatewayConfig(port=1, host=host)) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", ""])
def test_beyond_this_machine_a_missing_token_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=f"no token: set .*{TOKEN_VARIABLE}"):
        read_token(GatewayConfig(port=1, host=host))


@pytest.mark.parametrize("token", ["", "short", "x" * 513])
def test_a_token_of_a_wrong_size_is_refused_without_being_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(ConfigError, match=f"holds {len(token)} characters") as caught:
        read_token(GatewayConfig(port=1))
    assert not token or token not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such-file cannot be read"):
        read_token(GatewayConfig(port=1, token_file=str(tmp_path / "no-such-file")))


def test_the_key_of_the_tickets_stays_with_its_run_and_is_for_nobody_else(tmp_path: Path) -> None:
    runs = tmp_path / "one", tmp_path / "other"
    for run in runs:
        run.mkdir()
    keys = [ticket_key(run) for run in runs]
    assert keys[0] != keys[1]
    assert [ticket_key(run) for run in runs] == keys
    assert [len(key) for key in keys] == [32, 32]
    assert (runs[0] / "gateway.key").stat().st_mode & 0o777 == 0o600


def test_a_key_that_anybody_could_guess_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gateway.key").touch()
    with pytest.raises(RunDirError, match=r"gateway\.key is damaged: expected 32 bytes, got 0"):
        ticket_key(tmp_path)


def test_a_run_that_cannot_serve_a_gateway_is_refused_before_it_starts(tmp_path: Path) -> None:
    config = counting_preset()
    inline = replace(config.runtime, kind="inline")
    with pytest.raises(ConfigError, match=r"gateway\.port 4777: a gateway needs runtime\.kind ray"):
        preflight(replace(config, gateway=GatewayConfig(port=4777), runtime=inline), tmp_path)
    with pytest.raises(ConfigError, match="no token"):
        preflight(replace(config, gateway=GatewayConfig(port=1, host="0.0.0.0")), tmp_path)
