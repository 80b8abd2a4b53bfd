"""Joining clusters; those of our own are tested by the runtime's tests."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from wm_distributed.errors import ConfigError, DeadlineError, WorkerDiedError
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


def test_the_end_of_a_joined_clusters_head_is_noticed(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = listener.getsockname()
    context = SimpleNamespace(gcs_address=f"{host}:{port}")
    fake = SimpleNamespace(get_runtime_context=lambda: context, nodes=list)
    monkeypatch.setattr(ray_cluster, "ray", fake)
    cluster = RayCluster("auto")
    cluster.check()
    listener.close()
    cluster.check()  # it may come back
    monkeypatch.setattr(ray_cluster, "_HEAD_SECONDS", 0.0)
    with pytest.raises(WorkerDiedError, match=rf"head of the Ray cluster at {host}:{port} has not"):
        cluster.check()


def test_a_machine_that_leaves_a_joined_cluster_is_told_and_so_is_one_that_joins(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = listener.getsockname()
    context = SimpleNamespace(gcs_address=f"{host}:{port}")
    cluster = RayCluster("auto")

    def check(**alive: bool) -> str:
        nodes = [
            {"NodeID": x, "NodeManagerAddress": f"10.{x}", "Alive": is_, "Resources": {"CPU": 2.0}}
            for x, is_ in alive.items()
        ]
        fake = SimpleNamespace(get_runtime_context=lambda: context, nodes=lambda: nodes)
        monkeypatch.setattr(ray_cluster, "ray", fake)
        caplog.clear()
        cluster.check()
        return caplog.text

    assert not check(a=True, b=True)
    assert "machine 10.b has left the Ray cluster, where 2 CPU cores" in check(a=True, b=False)
    assert not check(a=True, b=False)
    assert "machine 10.c has joined: 4 CPU cores" in check(a=True, b=False, c=True)


class Ray:
    """Fails to start as often as it is told, and notes the directory of each attempt."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.folders: list[Path] = []

    def init(self, *, _temp_dir: str, **_: Any) -> None:
        self.folders.append(Path(_temp_dir))
        if self.failures:
            raise self.failures.pop(0)

    def shutdown(self) -> None:
        pass


TIMED_OUT = Exception("The current node timed out during startup.")


@pytest.mark.parametrize("failure", [TIMED_OUT, TimeoutError("The current node timed out.")])
def test_a_start_that_failed_is_tried_once_more(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = Ray(failure)
    monkeypatch.setattr(ray_cluster, "ray", fake)
    cluster = RayCluster(None)
    cluster.start()
    first, second = fake.folders
    assert not first.exists()
    assert second.exists()
    assert "started once more: The current node timed out" in caplog.text
    cluster.stop()
    assert not second.exists()


def test_a_start_that_failed_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "ray", Ray(TIMED_OUT, TIMED_OUT))
    cluster = RayCluster(None)
    with pytest.raises(DeadlineError, match=r"did not start, twice: The current.*\n.*overloaded"):
        cluster.start()
    cluster.stop()


def test_a_place_where_ray_cannot_have_its_files_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Ray(OSError("No space left on device"))
    monkeypatch.setattr(ray_cluster, "ray", fake)
    cluster = RayCluster(None)
    with pytest.raises(ConfigError, match=r"files in .*wm-ray-.*: No space left.*set TMPDIR"):
        cluster.start()
    assert len(fake.folders) == 1
    cluster.stop()


def test_a_temporary_directory_with_a_long_path_is_replaced_by_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made = ray_cluster._make_temp_dir()
    made.rmdir()
    session = "session_2026-01-01_00-00-00_000000_4194304"
    assert len(os.fsencode(made / session / "sockets" / "plasma_store")) <= 107


def test_a_temporary_directory_that_fits_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        made = ray_cluster._make_temp_dir()
        assert made.parent == Path(short)
