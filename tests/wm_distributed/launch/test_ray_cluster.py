"""Joining clusters; those of our own are tested by the runtime's tests."""

import socket
from collections.abc import Iterator

import pytest
import ray

from wm_distributed.errors import ConfigError
from wm_distributed.launch import ray_cluster
from wm_distributed.launch.ray_cluster import RayCluster


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port where somebody listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "Ray client addresses are not supported"),
        ("head", "must be auto or host:port, got 'head'"),
        ("127.0.0.1:1", r"nothing answers at '127\.0\.0\.1:1'.*ray start --head"),
    ],
)
def test_an_address_that_cannot_work_is_refused_at_once(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RayCluster(address).start()


def test_a_port_where_no_cluster_answers_is_refused_within_its_time(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_ANSWER_SECONDS", 1.0)
    port = listener.getsockname()[1]
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at '127.0.0.1:{port}' within 1"):
        RayCluster(f"127.0.0.1:{port}").start()


def test_auto_takes_the_address_from_the_environment_and_does_not_wait_for_it_either(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_ANSWER_SECONDS", 4.0)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(ConfigError, match="no Ray cluster answers at 'auto' within 4"):
        RayCluster("auto").start()


@pytest.mark.parametrize("has_token", [True, False])
def test_a_cluster_that_asks_for_a_token_is_given_that_of_this_machine(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, has_token: bool
) -> None:
    given: list[bool] = []

    def ask(address: str, advice: str) -> str:
        return "" if given == [True] else "ray.exceptions.AuthenticationError: InvalidAuthToken"

    def give() -> bool:
        given.append(has_token)
        return has_token

    monkeypatch.setattr(ray_cluster, "_ask_for_health", ask)
    monkeypatch.setattr(ray_cluster, "_give_token", give)
    monkeypatch.setattr(ray, "init", lambda **options: joined.append(options["address"]))
    joined: list[str] = []
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    if has_token:
        RayCluster(address).start()
        assert joined == [address]
    else:
        with pytest.raises(ConfigError, match=r"asks for a token\): copy its ~/\.ray/auth_token"):
            RayCluster(address).start()
