import threading

import pytest

from actors.watchdog import Watchdog


def test_a_hang_is_logged_once_and_again_after_progress(caplog: pytest.LogCaptureFixture) -> None:
    age = 0.0
    watchdog = Watchdog(lambda: age, 5.0, "the loop")
    found = []
    for age in (1.0, 6.0, 7.0, 0.0, 5.5):  # noqa: B007 (read by the watchdog)
        found.append(watchdog.check())
    assert found == [False, True, True, False, True]
    assert [record.args[1] for record in caplog.records if record.args] == [6.0, 5.5]  # type: ignore[index]


def test_the_thread_ends_when_told() -> None:
    before = threading.active_count()
    watchdog = Watchdog(lambda: 0.0, 60.0, "the loop")
    watchdog.start()
    assert threading.active_count() == before + 1
    watchdog.stop()
    assert threading.active_count() == before
