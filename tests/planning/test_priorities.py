"""The assumed cost of a minute of each stream's staleness."""

import pytest

from exporter.config.settings import Settings
from exporter.model import Group, Stream, Target
from exporter.planning.priorities import FLOOR, Plays, plays_weights, stream_factors

# The newest settled minute.
NOW = 1000


def test_a_known_media_has_its_smoothed_plays() -> None:
    """The rate is the weight, and a media without plays keeps a little."""
    weights = plays_weights(Plays(30.0, 30.0, NOW), {"a": Plays(30.0, 30.0, NOW), "b": Plays(0.0, 0.0, NOW)}, NOW)
    assert weights == {"a": 30.0, "b": FLOOR}


def test_an_unknown_media_has_its_share_of_the_unexplained_plays() -> None:
    """The plays of the whole merchant that the known media do not explain are spread over the unknown ones."""
    weights = plays_weights(Plays(100.0), {"a": Plays(60.0), "b": Plays(), "c": Plays()}, NOW)
    assert weights == {"a": 60.0, "b": 20.0, "c": 20.0}


def test_without_any_answer_all_are_equal() -> None:
    """At the first start nothing is known, and no media is preferred."""
    assert plays_weights(Plays(), {"a": Plays(), "b": Plays()}, NOW) == {"a": 1.0, "b": 1.0}


def test_an_unexplained_rise_is_assigned_to_the_other_media() -> None:
    """A live event has begun somewhere: the media requested last do not explain it, so all others gain equally."""
    whole = Plays(100.0, 400.0, NOW)
    weights = plays_weights(whole, {"a": Plays(99.0, 99.0, NOW), "b": Plays(1.0, 1.0), "c": Plays(0.0)}, NOW)
    assert weights == {"a": 99.0, "b": 301.0, "c": 300.0}


def test_a_missing_media_does_not_hide_a_rise() -> None:
    """A media that never answers is unknown, and the others are still requested."""
    media = {"a": Plays(99.0, 99.0, NOW), "b": Plays(1.0, 1.0), "gone": Plays()}
    weights = plays_weights(Plays(100.0, 400.0, NOW), media, NOW)
    assert weights["a"] == 99.0
    assert min(weights["b"], weights["gone"]) >= 300.0


def test_a_common_rise_in_the_evening_is_no_surprise() -> None:
    """The smoothed plays lag behind a rise of all media. The rise of the media requested last explains that of the
    others.
    """
    media = {"a": Plays(6000.0, 7200.0, NOW), "b": Plays(3000.0), "c": Plays(1000.0)}
    weights = plays_weights(Plays(10_000.0, 12_000.0, NOW), media, NOW)
    assert weights == {"a": 6000.0, "b": 3000.0, "c": 1000.0}


@pytest.mark.parametrize("last", [120.0, 400.0])
def test_a_random_or_explained_rise_changes_nothing(last: float) -> None:
    """Plays vary randomly; and if a media requested last rose by as much, nothing is hidden."""
    whole = Plays(100.0, last, NOW)
    weights = plays_weights(whole, {"a": Plays(99.0, last - 1, NOW), "b": Plays(1.0)}, NOW)
    assert weights == {"a": 99.0, "b": 1.0}


@pytest.mark.parametrize(("noise", "found"), [(1.0, True), (49.0, True), (51.0, False)])
def test_a_rise_is_compared_with_the_variation_of_the_whole_merchant(noise: float, found: bool) -> None:
    """With only random variation, a rise is significant from three standard deviations on: then all media that were not
    just requested gain it. If a media with a quarter of all plays varies widely, the deviation is the whole merchant's
    own.
    """
    # 300 more than expected. The variance of independent viewers is 201: that of this minute and of the one before.
    media = {"a": Plays(100.0, 100.0, NOW), "b": Plays(0.0)}
    weights = plays_weights(Plays(100.0, 400.0, NOW), media, NOW, noise)
    assert weights == {"a": 100.0, "b": 300.0 if found else FLOOR}


def test_the_settings_multiply() -> None:
    """A stream's factor is the product of the media's priority and the weights of entry, target and group."""
    merchant = {
        "id": "m",
        "api_key": "k",
        "mail_address": "a@example.com",
        "password": "p",
        "collect": [{"target": "play_time", "groups": ["all", "os"], "priority": 3}],
        "media": [{"id": "a", "priority": 5}],
    }
    settings = Settings.model_validate({"merchants": [merchant], "poll": {"weights": {"play_time": 0.5, "os": 0.2}}})
    factors = stream_factors(settings.merchants[0], settings.poll)
    assert factors == {
        Stream("m", "", Target.PLAY_COUNT, Group.ALL): 1.0,
        Stream("m", "", Target.PLAY_TIME, Group.ALL): 1.5,
        Stream("m", "", Target.PLAY_TIME, Group.OS): pytest.approx(0.3),
        Stream("m", "a", Target.PLAY_TIME, Group.ALL): 7.5,
        Stream("m", "a", Target.PLAY_TIME, Group.OS): pytest.approx(1.5),
    }
