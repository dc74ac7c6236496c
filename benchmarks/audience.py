"""A merchant's audience, and a poller that asks for its plays: everything real but the network and the time.

The client is a stand-in that takes its places from the real limiter and answers from tables. Time passes only when it
is told to, so a day takes seconds; the state file belongs on a disk of memory.
"""

import math
import tempfile
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import cast

from exporter.api.answers import Media
from exporter.api.budget import RequestBudget
from exporter.api.catalog import Catalog, Lookup
from exporter.api.client import Client
from exporter.config.settings import Settings
from exporter.counting.ledger import Ledger
from exporter.drops.monitor import DropMonitor
from exporter.drops.warmup import MINUTES_BACK
from exporter.model import MINUTE, Group, Minute, MinuteRange, Reading, Rows, Stream, Target
from exporter.polling.incidents import Incidents
from exporter.polling.poller import MerchantPoller
from exporter.storage.state import State

MERCHANT = "merchant"

# As many different minutes has a media: enough that chance looks like chance.
_DRAWS = 64

# From so many plays a minute on, their number is spread like a normal one.
_MANY = 40.0


def folder_in_memory(else_in: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder of its own on a disk of memory, where there is one."""
    memory = Path("/dev/shm")  # noqa: S108 - nothing in it has a name to guess
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else else_in)


def media_ids(count: int) -> list[str]:
    """So many media ids, like those of the API."""
    return [f"{number:032x}" for number in range(1, count + 1)]


def zipf(media: Sequence[str], exponent: float, most: float) -> dict[str, float]:
    """The plays a minute of media by Zipf's law: the first has the most, the n-th that over n ** exponent."""
    return {media_id: most / place**exponent for place, media_id in enumerate(media, 1)}


class Audience:
    """How often each media is played in each minute: by chance (Poisson), about its rate, the same at every call."""

    def __init__(self, rates: Mapping[str, float], seed: int = 1, wild: Collection[str] = ()) -> None:
        """Draw the plays.

        Args:
            rates: Plays a minute by media id.
            seed: The same seed draws the same plays.
            wild: Media whose plays are anything between 0 and twice their rate in each minute.
        """
        rng = Random(seed)  # noqa: S311 - no secret
        self.rates = dict(rates)
        self._draws = {
            media_id: (_wild_draws if media_id in wild else _draws)(rate, rng) for media_id, rate in rates.items()
        }
        self._events: dict[str, list[tuple[Minute, float]]] = {}
        self._whole: dict[Minute, float] = {}

    def begin(self, media_id: str, minute: Minute, plays: float) -> None:
        """Let a media have more plays a minute from a minute on, for good."""
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

    def rows(self, media_id: str, asked: MinuteRange) -> Rows:
        """What the API would answer; a minute without plays has no row."""
        found = ((minute, self.plays(media_id, minute)) for minute in range(asked.first, asked.last + 1))
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


class HandTurnedClock:
    """Time that passes only when it is told to, or slept away; where several threads sleep, one after the other.

    Attributes:
        wall: Unix seconds.
        ticks: Monotonic seconds.
    """

    def __init__(self, wall: float) -> None:
        self.wall = wall
        self.ticks = 1000.0
        self._mutex = threading.Lock()

    def now(self) -> float:
        """Unix seconds."""
        return self.wall

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.ticks

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        with self._mutex:
            self.wall += seconds
            self.ticks += seconds

    def to_next_minute(self) -> None:
        """Let time pass until the next minute begins."""
        self.sleep(MINUTE - self.wall % MINUTE)


class StandIn:
    """Answers for the API, within the real budget.

    Attributes:
        sends: When requests left (monotonic seconds).
        answers: The streams answered, each with the time (Unix seconds) and the newest minute asked for.
    """

    token_expiry = None
    renewals = 0

    def __init__(self, audience: Audience, limiter: RequestBudget, clock: HandTurnedClock, seconds: float) -> None:
        """Make a stand-in whose answers take so many seconds."""
        self.audience = audience
        self.sends: list[float] = []
        self.answers: list[tuple[Stream, float, Minute]] = []
        self._limiter = limiter
        self._clock = clock
        self._seconds = seconds

    def aggregations(self, stream: Stream, asked: MinuteRange, *, hourly: bool = False) -> Reading:
        """The plays asked for; of the past nothing is known."""
        self.send()
        if hourly or len(asked) >= MINUTES_BACK:
            return Reading({})
        self.answers.append((stream, self._clock.now(), asked.last))
        return Reading(self.audience.rows(stream.media_id, asked))

    def media(self, media_id: str) -> Media:
        """What the catalog says."""
        self.send()
        return Media(media_id=media_id, ref_id="", name="", live_event_id="", encode_type="vod")

    def send(self) -> None:
        """Take a request's place in the budget, and its time."""
        slot = self._limiter.take()
        self.sends.append(self._clock.monotonic())
        self._clock.sleep(self._seconds)
        slot.done()


def settings_for(media: Sequence[str], requests_per_minute: int, **poll: object) -> Settings:
    """A configuration in which each media has one stream, its plays."""
    merchant = {
        "id": MERCHANT,
        "api_key": "key",
        "mail_address": "ops@example.com",
        "password": "password",
        "requests_per_minute": requests_per_minute,
        "whole_merchant": False,
        "collect": [{"target": "play_count"}],
        "media": [{"id": media_id} for media_id in media],
    }
    return Settings.model_validate({"merchants": [merchant], "poll": {"concurrency": 1, **poll}})


def stream_of(media_id: str) -> Stream:
    """The plays of a media, of the whole merchant for the id ""."""
    return Stream(MERCHANT, media_id, Target.PLAY_COUNT, Group.ALL)


class Process:
    """What polls for one merchant in a process, from its start on.

    Attributes:
        ledger: What is counted.
        limiter: The budget.
        client: What stands in for the network.
        poller: Who asks.
    """

    def __init__(
        self,
        state: State,
        settings: Settings,
        clock: HandTurnedClock,
        audience: Audience,
        *,
        seconds: float = 0.05,
        client: type[StandIn] = StandIn,
    ) -> None:
        """Start it, with answers that take so many seconds."""
        merchant = settings.merchants[0]
        self.ledger = Ledger(state, settings, on_revision=lambda _: None)
        self.ledger.sync(settings.merchants, clock.now())
        self.limiter = RequestBudget(state, merchant.id, merchant.requests_per_minute, clock.now, clock.monotonic)
        self.client = client(audience, self.limiter, clock, seconds)
        catalog = Catalog(state, merchant)
        self.poller = MerchantPoller(
            merchant,
            settings.poll,
            self.ledger,
            catalog,
            DropMonitor(state, settings, merchant, catalog),
            self.limiter,
            cast("Client", self.client),
            clock,
            Incidents(),
        )


def know_catalog(state: State, media: Sequence[str], clock: HandTurnedClock) -> None:
    """Let the state file know all media and their past, so that none is looked up for some hours."""
    catalog = Catalog(state, settings_for(media, 1).merchants[0])
    for media_id in media:
        known = Media(media_id=media_id, ref_id="", name="", live_event_id="", encode_type="vod")
        catalog.enter_media(Lookup(media_id), known, clock.now())
    know_past(state, MERCHANT, ["", *media])


def know_past(state: State, merchant_id: str, media: Iterable[str]) -> None:
    """Let the state file know the past of some media, "" for the whole merchant, so that it is not asked for."""
    with state.transaction() as db:
        db.executemany(
            "INSERT INTO tracks (merchant_id, media_id, recent, noise, past_known) VALUES (?, ?, x'', x'', 1) "
            "ON CONFLICT (merchant_id, media_id) DO UPDATE SET past_known = 1",
            [(merchant_id, media_id) for media_id in media],
        )
