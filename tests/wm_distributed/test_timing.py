from wm_distributed.timing import WorkMeter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_shares_and_rate_are_of_the_time_since_the_last_reading() -> None:
    clock = Clock()
    meter = WorkMeter("env", "wait", clock=clock)
    with meter.measure("env"):
        clock.now += 3
    with meter.measure("wait"):
        clock.now += 1
    clock.now += 4
    meter.count(16)
    assert meter.read() == (2.0, {"env": 3 / 8, "wait": 1 / 8})
    clock.now += 2
    assert meter.read() == (0.0, {"env": 0.0, "wait": 0.0})


def test_a_section_under_way_counts_in_the_reading_and_only_once() -> None:
    clock = Clock()
    meter = WorkMeter("wait", clock=clock)
    with meter.measure("wait"):
        clock.now += 10
        assert meter.read() == (0.0, {"wait": 1.0})
        clock.now += 5
    clock.now += 5
    assert meter.read() == (0.0, {"wait": 0.5})


def test_a_section_that_raises_still_counts() -> None:
    clock = Clock()
    meter = WorkMeter("wait", clock=clock)
    try:
        with meter.measure("wait"):
            clock.now += 1
            raise ValueError
    except ValueError:
        clock.now += 1
    assert meter.read()[1] == {"wait": 0.5}
