"""How fresh the daemon keeps the plays of a merchant: its own rounds over HTTP, from the API's log, in real time.

Each daemon is the real command, with all names, the history and the plays of the last half hour known. It has its own
API, which logs the arrival of each request. All run in parallel.

Staleness is measured at the end of each minute, before the next one settles: the settled minutes of each media that no
request was for, with the mean weighted by the media's true plays. A request counts with all minutes of its range if it
has arrived so early that its answer has left. The bound is that of the same weights with all requests but one, which is
for the whole merchant, and of a longest wait if it can be kept.
"""

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import fmean
from urllib.parse import parse_qs, urlsplit

from benchmarks.canned import listen, other_than_rows
from benchmarks.prepared import Prepared
from benchmarks.process import Running, running
from benchmarks.report import Cell, Table
from exporter.api.answers import Media
from exporter.api.catalog import MEDIA_EVERY, Catalog, Lookup
from exporter.config.load import load
from exporter.config.settings import Settings
from exporter.counting.ledger import Ledger
from exporter.counting.windows import ended_before, whole_minutes
from exporter.drops.monitor import DropMonitor
from exporter.drops.warmup import MINUTES_BACK, WarmupRequest
from exporter.model import MINUTE, Minute, MinuteRange, Rows
from exporter.planning.index import lower_bound
from exporter.storage.state import open_state
from tests.support.audience import (
    MERCHANT,
    Audience,
    mark_history_known,
    media_ids,
    merchant_for,
    stream_of,
    zipf,
)

REQUESTS = 45

LONGEST_WAIT = 30

SETTLE = 120.0

# Seconds after a minute's end until its rows exist.
LAG = 60.0

# Plays a minute of the media with most plays.
MOST_PLAYS = 1000.0

_API_ZONE = timezone(timedelta(hours=9))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A merchant whose freshness is measured.

    Attributes:
        name: Its name.
        media: The number of media. Their plays follow Zipf's law.
        seconds: The seconds that the API takes to answer.
        wild: Whether one media of them has a quarter of all plays, in each minute between none and twice as many.
    """

    name: str
    media: int
    seconds: float = 0.05
    wild: bool = False

    def audience(self) -> Audience:
        """The plays of each media."""
        media = media_ids(self.media)
        if not self.wild:
            return Audience(zipf(media, 1.0, MOST_PLAYS))
        rates = zipf(media[1:], 1.0, MOST_PLAYS)
        return Audience({media[0]: sum(rates.values()) / 3, **rates}, wild=media[:1])


SCENARIOS = (
    Scenario("steady", 120),
    Scenario("steady", 300),
    Scenario("one media wild", 120, wild=True),
    Scenario("slow API", 120, seconds=0.3),
)


def run(
    folder: Path, *, scenarios: Sequence[Scenario] = SCENARIOS, minutes: float = 30.0, warm_up: float = 10.0
) -> Table:
    """Measure these merchants for this number of minutes after a warm-up, at the end of each minute."""
    with contextlib.ExitStack() as stack:
        apis = [stack.enter_context(logging_api(each.audience(), each.seconds)) for each in scenarios]
        daemons = [
            stack.enter_context(running(prepare(folder / f"merchant-{place}", api, time.time())))
            for place, api in enumerate(apis)
        ]
        began = time.time() + warm_up * MINUTE
        if minutes >= 1:
            began += -began % MINUTE
        end = began + minutes * MINUTE
        own = _watch(daemons, began, end)
    rows = (_row(scenario, api, began, end, daemon) for scenario, api, daemon in zip(scenarios, apis, own, strict=True))
    return Table(
        "freshness",
        f"minutes of staleness, weighted by plays, of daemons with {REQUESTS} requests a minute, by the API's log over "
        f"{minutes:g} minutes of real time, as a ratio to the bound of any schedule; beside it what the daemon itself "
        "says, of all streams and right after its rounds",
        (
            "plays",
            "media",
            "answers s",
            "staleness",
            "bound",
            "ratio",
            "own",
            "own bound",
            "requests/min",
            "most in 60 s",
            "seen after s",
        ),
        tuple(rows),
    )


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request in the API's log.

    Attributes:
        at: Its arrival (Unix seconds).
        media_id: The media whose plays were requested, "" for the whole merchant; None for other requests.
        last: The newest requested minute.
    """

    at: float
    media_id: str | None = None
    last: Minute = -1


@dataclass(slots=True)
class LoggingApi:
    """An API that logs the arrival of requests.

    Attributes:
        url: Its address.
        audience: The audience with the plays.
        seconds: The seconds that each answer takes.
        arrivals: The requests, oldest first.
    """

    url: str
    audience: Audience
    seconds: float
    arrivals: list[Arrival] = field(default_factory=list)

    def answer(self, target: bytes) -> bytes:
        """The body for a request's path and query."""
        now = time.time()
        query = {key: values[0] for key, values in parse_qs(urlsplit(target.decode()).query).items()}
        if "from" not in query:
            self.arrivals.append(Arrival(now))
            return other_than_rows(target)
        first, last = (_minute(query[key]) for key in ("from", "to"))
        media_id = query.get("media_id", "")
        self.arrivals.append(Arrival(now, media_id, last))
        rows = self.audience.rows(media_id, MinuteRange(first, min(last, ended_before(now, LAG))))
        return f"[{', '.join(_row_text(minute, plays) for minute, plays in _plays(rows))}]".encode()


@contextlib.contextmanager
def logging_api(audience: Audience, seconds: float) -> Iterator[LoggingApi]:
    """Run an API on its own thread while the block runs."""
    api = LoggingApi("", audience, seconds)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(listen(api.answer, seconds))
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def prepare(place: Path, api: LoggingApi, now: float) -> Prepared:
    """Create a configuration and its state file, as a daemon leaves them after a day until now."""
    place.mkdir()
    config = place / "config.yaml"
    merchant = merchant_for(api.audience.rates, REQUESTS)
    written = {"api": {"url": api.url}, "merchants": [merchant], "storage": {"path": str(place / "state.db")}}
    config.write_text(json.dumps(written), encoding="utf-8")
    settings = load(config, {})
    _store_history(settings, api.audience, now)
    return Prepared(config, settings, 0)


def _store_history(settings: Settings, audience: Audience, now: float) -> None:
    (merchant,) = settings.merchants
    window = whole_minutes(settings.poll.revision_window)
    newest = ended_before(now, settings.poll.settle)
    requested = MinuteRange(newest - window, newest)
    state = open_state(settings.storage.path, lambda: now)
    try:
        ledger = Ledger(state, settings, lambda _: None)
        ledger.configure(settings, now - (window + 1) * MINUTE)
        for stream in merchant.streams():
            ledger.enter(stream, requested, audience.rows(stream.media_id, requested), now)
        catalog = Catalog(state, merchant)
        for place, media_id in enumerate(audience.rates):
            # Not all at once, or none of them would be due meanwhile.
            known_since = now - MEDIA_EVERY * place / len(audience.rates)
            known = Media(ref_id="", name="", live_event_id="", encode_type="file")
            catalog.enter_media(Lookup(media_id), known, known_since)
        watch = DropMonitor(state, settings, merchant, catalog, now)
        day = MinuteRange(newest - MINUTES_BACK + 1, newest)
        watch.enter_history(WarmupRequest(stream_of(""), day, hourly=False), audience.rows("", day), now)
        watch.save(now)
        mark_history_known(state, MERCHANT, ["", *audience.rates])
    finally:
        state.close()


def _watch(daemons: Sequence[Running], began: float, end: float) -> list[tuple[float, float]]:
    """Staleness and bound (minutes) as each daemon exports them: means over the minutes of a period."""
    exposed: list[list[tuple[float, float]]] = [[] for _ in daemons]
    while True:
        # Shortly before each minute's end.
        moment = min(end, max(began, time.time() + 1) // MINUTE * MINUTE + MINUTE) - 1
        time.sleep(max(0.0, moment - time.time()))
        for daemon, values in zip(daemons, exposed, strict=True):
            page = daemon.scrape().decode()
            staleness_seconds = _value(page, "smartstream_staleness_seconds")
            values.append((staleness_seconds / MINUTE, _value(page, "smartstream_staleness_bound_seconds") / MINUTE))
        if moment >= end - 1:
            time.sleep(max(0.0, end - time.time()))
            return [(fmean(mine for mine, _ in values), values[-1][1]) for values in exposed]


def _row(scenario: Scenario, api: LoggingApi, began: float, end: float, own: tuple[float, float]) -> tuple[Cell, ...]:
    rates = api.audience.rates
    ends = [min(end, began + place * MINUTE) for place in range(1, max(1, round((end - began) / MINUTE)) + 1)]
    # The prepared state is up to date, so a media without a request counts as fresh at the start.
    seen = [staleness(api.arrivals, rates, moment, api.seconds) for moment in ends]
    bound = lower_bound(list(rates.values()), REQUESTS - 1, LONGEST_WAIT)
    arrivals = [arrival for arrival in api.arrivals if began <= arrival.at < end]
    mean = fmean(seen)
    return (
        scenario.name,
        scenario.media,
        scenario.seconds,
        mean,
        bound,
        mean / bound if bound else 1.0,
        *own,
        len(arrivals) / (end - began) * MINUTE,
        most_within(60.0, [arrival.at for arrival in api.arrivals]),
        _seconds_after(arrivals, rates),
    )


def staleness(arrivals: Sequence[Arrival], rates: Mapping[str, float], moment: float, seconds: float) -> float:
    """The mean of the media's staleness (minutes) just before a moment, weighted by their plays.

    Args:
        arrivals: The requests at the API. A media without a request counts as up to date at the first one.
        rates: Plays a minute by media id.
        moment: Unix seconds. A minute that settles at that moment does not count.
        seconds: The seconds that an answer takes.
    """
    before = [each for each in arrivals if each.at + seconds < moment]
    settled = ended_before(moment - 0.001, SETTLE)
    start = ended_before(arrivals[0].at, SETTLE) - 1 if arrivals else settled
    requested = dict.fromkeys(rates, start)
    for each in before:
        if each.media_id in requested:
            requested[each.media_id] = max(requested[each.media_id], each.last)
    behind = sum(rate * max(0, settled - requested[media_id]) for media_id, rate in rates.items())
    return behind / sum(rates.values())


def most_within(seconds: float, moments: Sequence[float]) -> int:
    """The largest number of ascending times that are less than this number of seconds apart."""
    most, first = 0, 0
    for place, moment in enumerate(moments):
        while moment - moments[first] >= seconds:
            first += 1
        most = max(most, place - first + 1)
    return most


def _seconds_after(arrivals: Sequence[Arrival], rates: Mapping[str, float]) -> float:
    """Seconds from a minute's settling to the arrival of the first request for it, weighted by plays."""
    waits = [(rates[each.media_id], each.at - (each.last + 1) * MINUTE - SETTLE) for each in arrivals if each.media_id]
    return sum(rate * wait for rate, wait in waits) / sum(rate for rate, _ in waits) if waits else 0.0


def _minute(local: str) -> Minute:
    moment = datetime.strptime(local, "%Y%m%d%H%M%S").replace(tzinfo=_API_ZONE)
    return int(moment.timestamp() // MINUTE)


def _plays(rows: Rows) -> Iterator[tuple[Minute, float | None]]:
    return ((minute, values[""]) for minute, values in rows.items())


def _row_text(minute: Minute, plays: float | None) -> str:
    local = datetime.fromtimestamp(minute * MINUTE, _API_ZONE)
    return f'{{"date": "{local:%Y/%m/%d %H:%M}", "all": {plays}}}'


def _value(page: str, family: str) -> float:
    found = re.search(rf"^{family}\S* (\S+)", page, re.MULTILINE)
    return float(found[1]) if found else 0.0
