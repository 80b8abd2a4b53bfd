"""How a rank is reached; what else it sets is tested with its users."""

import os

import pytest

from wm_distributed.launch.rank_setup import use_interface_of


@pytest.fixture(autouse=True)
def _no_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is put back afterwards
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")


def test_gloo_gets_the_interface_of_the_address() -> None:
    use_interface_of("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_an_address_of_no_interface_changes_nothing() -> None:
    use_interface_of("203.0.113.9")  # reserved for documents
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_the_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    use_interface_of("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
