import numpy as np

from learners.parameter_server import ParameterServer
from wm_distributed.types import Weights


def weights(version: int) -> Weights:
    return Weights(version, np.full(100, version, np.uint8))


def test_the_newest_version_is_given_to_whoever_has_an_older_one() -> None:
    server = ParameterServer()
    assert server.fetch(0) is None
    server.publish(weights(1))
    server.publish(weights(2))
    assert server.fetch(0) == server.fetch(1)
    newest = server.fetch(1)
    assert newest is not None
    assert (newest.version, newest.buffer[0]) == (2, 2)
    assert server.fetch(2) is None
    assert server.fetch(3) is None


def test_versions_that_are_not_newer_are_ignored() -> None:
    server = ParameterServer()
    for version in (3, 3, 2):
        server.publish(weights(version))
    assert server.version == 3
    assert server.stats()["server/publications"] == 1


def test_what_is_given_out_is_counted() -> None:
    server = ParameterServer()
    server.publish(weights(1))
    for newer_than in (0, 0, 1):
        server.fetch(newer_than)
    assert server.stats() == {
        "server/version": 1,
        "server/publications": 1,
        "server/fetches": 2,
        "server/bytes_out": 200,
    }
