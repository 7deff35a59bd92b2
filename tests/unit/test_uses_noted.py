"""When a server tells the registry what it was asked for."""

from __future__ import annotations

from featurestore.serving.uses import NOTE_AGAIN_US, Uses

NOW_US = 1_000 * NOTE_AGAIN_US


def test_a_first_use_is_due_at_the_next_look() -> None:
    uses = Uses()
    assert uses.due(now_us=NOW_US) == {}
    uses.asked(("model",))
    uses.asked(("views/load", "views/weather"))
    names = ("model", "views/load", "views/weather")
    assert uses.due(now_us=NOW_US) == dict.fromkeys(names, NOW_US)
    assert uses.due(now_us=NOW_US + NOTE_AGAIN_US) == {}, "nobody asked since"


def test_later_ones_are_told_once_an_hour_with_the_time_of_the_last() -> None:
    uses = Uses()
    for minute in range(60):
        uses.asked(("model",))
        due = uses.due(now_us=NOW_US + minute * 60_000_000)
        assert due == ({"model": NOW_US} if minute == 0 else {})
    assert uses.due(now_us=NOW_US + NOTE_AGAIN_US) == {"model": NOW_US + 59 * 60_000_000}


def test_what_could_not_be_told_is_tried_again_an_hour_later() -> None:
    uses = Uses()
    uses.asked(("model", "other"))
    due = uses.due(now_us=NOW_US)
    uses.asked(("model",))
    assert uses.due(now_us=NOW_US + 5) == {}
    uses.again(due)
    assert uses.due(now_us=NOW_US + NOTE_AGAIN_US - 1) == {}
    again = uses.due(now_us=NOW_US + NOTE_AGAIN_US)
    assert again == {"model": NOW_US + 5, "other": NOW_US}
