"""A merchant's audience, and a poller that requests its plays: only the network and the time are simulated.

The client is a stand-in that takes slots of the real request budget and answers from tables. Time is a `FakeClock`, so
a day takes seconds; the state file belongs on a disk in memory.
"""

import math
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import cast

from exporter.api.answers import Media
from exporter.api.budget import RequestBudget
from exporter.api.catalog import Catalog, Lookup
from exporter.api.client import Client
from exporter.assembly import build_parts
from exporter.config.settings import Settings
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor
from exporter.drops.warmup import MINUTES_BACK
from exporter.model import Group, Minute, MinuteRange, Reading, Rows, Stream, Target, minute_of
from exporter.polling.parts import MerchantParts
from exporter.polling.poller import MerchantPoller
from exporter.storage.state import State
from tests.support.fakes import FakeClock

MERCHANT = "merchant"

# Different minutes of a media: enough to look random.
_DRAWS = 64

# Plays per minute above which a normal distribution replaces Poisson's.
_MANY = 40.0


def folder_in_memory(else_in: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder on a disk in memory, where there is one."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else else_in)


def media_ids(count: int) -> list[str]:
    """A number of media ids, in the form of the API's."""
    return [f"{number:032x}" for number in range(1, count + 1)]


def zipf(media: Sequence[str], exponent: float, most: float) -> dict[str, float]:
    """The plays a minute of media by Zipf's law: the first has the most, the n-th that over n ** exponent."""
    return {media_id: most / place**exponent for place, media_id in enumerate(media, 1)}


class Audience:
    """The plays of each media in each minute: random (Poisson) around its rate, the same at every call."""

    def __init__(self, rates: Mapping[str, float], seed: int = 1, wild: Collection[str] = ()) -> None:
        """Draw the plays.

        Args:
            rates: Plays a minute by media id.
            seed: The same seed draws the same plays.
            wild: Media whose plays are anything between 0 and twice their rate in each minute.
        """
        rng = Random(seed)
        self.rates = dict(rates)
        self._draws = {
            media_id: (_wild_draws if media_id in wild else _draws)(rate, rng) for media_id, rate in rates.items()
        }
        self._events: dict[str, list[tuple[Minute, float]]] = {}
        self._whole: dict[Minute, float] = {}

    def begin(self, media_id: str, minute: Minute, plays: float) -> None:
        """Add plays per minute to a media, from a minute on."""
        self._events.setdefault(media_id, []).append((minute, plays))
        self._whole.clear()

    def plays(self, media_id: str, minute: Minute) -> float:
        """The plays of a media in a minute, of the whole merchant for the id ""."""
        if media_id == "":
            if minute not in self._whole:
                self._whole[minute] = sum(self.plays(each, minute) for each in self._draws)
            return self._whole[minute]
        plays = self._draws[media_id][minute % _DRAWS]
        for since, more in self._events.get(media_id, ()):
            if minute >= since:
                plays += more
        return plays

    def rows(self, media_id: str, requested: MinuteRange) -> Rows:
        """The answer of the API; a minute without plays has no row."""
        found = ((minute, self.plays(media_id, minute)) for minute in range(requested.first, requested.last + 1))
        return {minute: {"": plays} for minute, plays in found if plays}


def _draws(rate: float, rng: Random) -> list[float]:
    """Evenly spaced quantiles of the number of plays in a minute, in any order: their mean is the rate."""
    levels = [(place + rng.random()) / _DRAWS for place in range(_DRAWS)]
    if rate > _MANY:
        normal = NormalDist(rate, math.sqrt(rate))
        draws = [float(max(0, round(normal.inv_cdf(level or 0.5)))) for level in levels]
    else:
        draws = [float(_poisson(rate, level)) for level in levels]
    rng.shuffle(draws)
    return draws


def _wild_draws(rate: float, rng: Random) -> list[float]:
    draws = [float(round(2 * rate * (place + rng.random()) / _DRAWS)) for place in range(_DRAWS)]
    rng.shuffle(draws)
    return draws


def _poisson(rate: float, level: float) -> int:
    number, chance = 0, math.exp(-rate)
    reached = chance
    while reached < level and number < 10 * _MANY:
        number += 1
        chance *= rate / number
        reached += chance
    return number


class StandIn:
    """Answers for the API, within the real budget.

    Attributes:
        sends: When requests left (monotonic seconds).
        answers: The answered streams, each with the time (Unix seconds) and the newest requested minute.
    """

    token_expiry = None
    renewals = 0

    def __init__(self, audience: Audience, budget: RequestBudget, clock: FakeClock, seconds: float) -> None:
        """Create a client whose answers take `seconds` each."""
        self.audience = audience
        self.sends: list[float] = []
        self.answers: list[tuple[Stream, float, Minute]] = []
        self._budget = budget
        self._clock = clock
        self._seconds = seconds

    def aggregations(self, stream: Stream, requested: MinuteRange, *, hourly: bool = False) -> Reading:
        """The requested plays; for the history the answer is empty."""
        self.send()
        if requested.last > minute_of(self._clock.now()):
            # The check of the time zone, which fits.
            return Reading({minute_of(self._clock.now()) - 2: {"": 1.0}})
        if hourly or len(requested) >= MINUTES_BACK:
            return Reading({})
        self.answers.append((stream, self._clock.now(), requested.last))
        return Reading(self.audience.rows(stream.media_id, requested))

    def media(self, media_id: str) -> Media:
        """The answer of the catalog."""
        self.send()
        return Media(ref_id="", name="", live_event_id="", encode_type="vod")

    def send(self) -> None:
        """Take a slot of the budget, and let the time of a request pass."""
        slot = self._budget.take()
        self.sends.append(self._clock.monotonic())
        self._clock.sleep(self._seconds)
        slot.done()


def merchant_for(media: Iterable[str], requests_per_minute: int, **given: object) -> dict[str, object]:
    """The configuration of a merchant, with other settings as given."""
    return {
        "id": MERCHANT,
        "api_key": "key",
        "mail_address": "ops@example.com",
        "password": "password",
        "requests_per_minute": requests_per_minute,
        "collect": [{"target": "play_count"}],
        "media": [{"id": media_id} for media_id in media],
        **given,
    }


def settings_for(media: Sequence[str], requests_per_minute: int, **poll: object) -> Settings:
    """A configuration in which each media has one stream, its plays."""
    merchant = merchant_for(media, requests_per_minute, whole_merchant=False)
    return Settings.model_validate({"merchants": [merchant], "poll": {"concurrency": 1, **poll}})


def stream_of(media_id: str) -> Stream:
    """The plays of a media, of the whole merchant for the id ""."""
    return Stream(MERCHANT, media_id, Target.PLAY_COUNT, Group.ALL)


class NoDetector(DropMonitor):
    """A drop monitor that finds nothing. The detector takes a third of a simulation's time, and decides no request but
    by the dispersion of the whole merchant's plays.
    """

    def enter(self, *_args: object) -> None:
        """Forget the plays."""

    def judge(self) -> Mapping[str, Exception]:
        """Find nothing."""
        return {}


def without_detector(parts: MerchantParts, state: State, settings: Settings) -> MerchantParts:
    """The same parts with a `NoDetector`."""
    return replace(parts, monitor=NoDetector(state, settings, parts.settings, parts.catalog, parts.clock.now()))


class Process:
    """The objects that poll for one merchant in one process.

    Attributes:
        ledger: The counters.
        budget: The request budget.
        client: The stand-in for the API.
        monitor: Finds drops.
        poller: Sends the requests.
    """

    def __init__(
        self,
        state: State,
        settings: Settings,
        clock: FakeClock,
        audience: Audience,
        *,
        seconds: float = 0.05,
        client: type[StandIn] = StandIn,
        detector: bool = True,
    ) -> None:
        """Start polling, with or without the drop detector; each answer takes `seconds`."""
        merchant = settings.merchants[0]
        self.ledger = Ledger(state, settings, on_revision=lambda _: None)
        self.ledger.configure(settings, clock.now())
        self.budget = RequestBudget(state, merchant.id, merchant.requests_per_minute, clock)
        self.client = client(audience, self.budget, clock, seconds)
        as_client = cast("Client", self.client)
        parts = build_parts(settings, merchant, state, self.ledger, self.budget, as_client, clock)
        self.monitor = parts.monitor
        self.poller = MerchantPoller(parts if detector else without_detector(parts, state, settings))


def store_catalog(state: State, media: Sequence[str], clock: FakeClock) -> None:
    """Store the names of all media, and that their history is known, so that no lookup is due for some hours."""
    catalog = Catalog(state, settings_for(media, 1).merchants[0])
    for media_id in media:
        known = Media(ref_id="", name="", live_event_id="", encode_type="vod")
        catalog.enter_media(Lookup(media_id), known, clock.now())
    mark_history_known(state, MERCHANT, ["", *media])


def mark_history_known(state: State, merchant_id: str, media: Iterable[str]) -> None:
    """Store that the history of some media ("" for the whole merchant) is known, so that it is not requested."""
    with state.transaction() as db:
        db.executemany(
            "INSERT INTO tracks (merchant_id, media_id, recent, noise, past_known) VALUES (?, ?, x'', x'', 1) "
            "ON CONFLICT (merchant_id, media_id) DO UPDATE SET past_known = 1",
            [(merchant_id, media_id) for media_id in media],
        )
