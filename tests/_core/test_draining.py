"""When output that others may hold open is given up."""

from aioremote._core.draining import Drain


def test_two_looks_that_find_nothing_are_the_end() -> None:
    drain = Drain(1000, most_looks=10)
    assert not drain.is_over(0, slow=False)
    assert drain.is_quiet
    assert drain.is_over(0, slow=False)


def test_what_came_in_between_puts_it_off() -> None:
    drain = Drain(1000, most_looks=10)
    assert not drain.is_over(0, slow=False)
    assert not drain.is_over(300, slow=False)
    assert not drain.is_quiet
    assert not drain.is_over(300, slow=False)
    assert not drain.is_over(600, slow=False)
    assert not drain.is_over(600, slow=False)
    assert drain.is_over(600, slow=False)


def test_a_slow_reader_has_all_the_time_it_needs() -> None:
    drain = Drain(1000, most_looks=10)
    assert not any(drain.is_over(0, slow=True) for _ in range(100))
    assert not drain.is_over(0, slow=False)
    assert not drain.is_over(0, slow=True)
    assert not drain.is_over(0, slow=False)
    assert drain.is_over(0, slow=False)


def test_what_never_stops_is_somebody_elses() -> None:
    much, often = Drain(1000, most_looks=10), Drain(1000, most_looks=10)
    assert [much.is_over(came, slow=False) for came in (999, 1000, 1001)] == [False, False, True]
    assert [often.is_over(came, slow=False) for came in range(1, 13)] == [False] * 11 + [True]


def test_a_longer_road_is_given_more_looks() -> None:
    drain = Drain(1000, most_looks=10, quiet_looks=4)
    assert [drain.is_over(0, slow=False) for _ in range(4)] == [False, False, False, True]
