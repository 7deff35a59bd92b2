"""When a write to the store waits for company, on a clock of our own."""

from __future__ import annotations

import pytest

from featurestore.stores.online.redis_pace import GROUP_CALLS, GROUP_S, HANDFUL, HURRY_S, Pace

FAR = 1e9


def held(pace: Pace, callers: int, *, every_s: float, seconds: float) -> int:
    """How many writes wait while so many are under way, each call alone in its tick."""
    count, now = 0, 100.0
    while now < 100.0 + seconds:
        count += pace.holds(1, callers, now=now, earliest=FAR)
        now += every_s
    return count


@pytest.mark.parametrize("every_s", [0.00001, 0.0003, 0.01])
def test_a_lone_caller_never_waits(every_s: float) -> None:
    assert held(Pace(), 1, every_s=every_s, seconds=10) == 0


def test_a_handful_waits_about_once_a_second() -> None:
    assert 1 <= held(Pace(), HANDFUL, every_s=0.0003, seconds=10) <= 14


def test_a_handful_that_is_slow_never_waits() -> None:
    assert held(Pace(), HANDFUL, every_s=0.001, seconds=10) == 0


def test_many_wait_and_go_together() -> None:
    pace = Pace()
    assert pace.holds(1, HANDFUL + 1, now=1.0, earliest=FAR)
    assert not pace.lets_go(GROUP_CALLS - 1, HANDFUL + 1, now=1.0005, earliest=FAR)
    assert pace.lets_go(GROUP_CALLS, GROUP_CALLS, now=1.0006, earliest=FAR)
    # By and by there are fewer again.
    assert pace.holds(1, 1, now=1.01, earliest=FAR)
    assert not pace.holds(1, 1, now=1.1, earliest=FAR)


def test_a_group_that_gathers_keeps_the_next_waiting() -> None:
    pace = Pace()
    waits = now = 0.0
    for _ in range(1_000):
        if pace.holds(1, 2, now=now, earliest=FAR):
            # Seven more come while it waits.
            assert not pace.lets_go(8, 8, now=now + GROUP_S, earliest=FAR)
            waits, now = waits + 1, now + GROUP_S
        now += 0.0002
    assert waits > 900


def test_calls_that_come_together_need_not_wait() -> None:
    assert not Pace().holds(HANDFUL + 1, 100, now=1.0, earliest=FAR)


def test_who_is_in_a_hurry_takes_the_others_along() -> None:
    pace = Pace()
    soon = 1.0 + HURRY_S / 2
    assert not pace.holds(1, 100, now=1.0, earliest=soon)
    assert pace.holds(1, 100, now=1.0, earliest=FAR)
    assert pace.lets_go(2, 100, now=1.0, earliest=soon)
