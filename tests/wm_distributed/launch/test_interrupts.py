import os
import signal

import pytest

from wm_distributed.launch.interrupts import Interrupts


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_raises(number: signal.Signals) -> None:
    said: list[str] = []
    interrupts = Interrupts(said.append)
    before = signal.getsignal(number)
    with interrupts.installed():
        assert not interrupts.asked
        send(number)
        assert interrupts.asked
        assert said == ["Stopping with a checkpoint. Ctrl-C again: stop now, without one."]
        with pytest.raises(KeyboardInterrupt):
            send(number)
        # a third would end the process: it is no longer handled here
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_inside_at_once_the_first_raises_and_is_still_the_first() -> None:
    said: list[str] = []
    interrupts = Interrupts(said.append)
    with interrupts.installed():
        with pytest.raises(KeyboardInterrupt), interrupts.answering("Stopping here.", at_once=True):
            send()
        assert said == ["Stopping here."]
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            send()
