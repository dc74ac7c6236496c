"""`replay`: backtest the drop alerts on recorded plays, from a file or from the API."""

import json
import os
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from exporter import logs
from exporter.api.history import MerchantHistory, fetch, open_histories
from exporter.backtest import plays_csv, plot
from exporter.backtest.alerts import Alert
from exporter.backtest.parallel import Backtest, backtest
from exporter.backtest.plays_csv import Recording
from exporter.clock import Clock
from exporter.config.settings import DEFAULT_THRESHOLDS, MerchantSettings, Settings
from exporter.counting.windows import ended_before
from exporter.errors import InputError
from exporter.model import DAY_MINUTES, Group, Minute, MinuteRange, Stream, Target, minute_of, start_of, total_of
from exporter.times import format_instant
from exporter.views import IncidentState, Thresholds

# How the catalog calls what is not live; "" where it does not say.
_FILES = frozenset({"", "file"})


@dataclass(frozen=True, slots=True)
class Output:
    """How to print the result.

    Attributes:
        json: Whether each line is a JSON object instead of text.
        since: Only alerts that start then or later (Unix seconds), or None for all.
        plot: The file for the picture, or None.
    """

    json: bool
    since: float | None
    plot: Path | None


def of_file(path: Path, settings: Settings | None, output: Output) -> None:
    """Replay a file, with the thresholds of a configuration where there is one.

    Raises:
        InputError: The file cannot be used.
    """
    recordings = plays_csv.read(path)
    ids = [each.media_id for each in recordings]
    _report(recordings, _thresholds(settings, ids), output)


def of_api(settings: Settings, media_ids: Sequence[str], days: int, output: Output, clock: Clock) -> None:
    """Replay the newest days of some media, fetched from the API within the budget.

    Raises:
        InputError: The media cannot be replayed.
        HistoryError: The API failed for too long.
        StateError: The state file, which has the budget, cannot be used.
    """
    merchant = _merchant_of(settings, media_ids)
    settings = settings.model_copy(update={"merchants": (merchant,)})
    last = ended_before(clock.now(), settings.poll.max_lag)
    minutes = MinuteRange(last - days * DAY_MINUTES + 1, last)
    logs.write_in(lambda: tqdm.external_write_mode(file=sys.stderr))
    with open_histories(settings, clock) as pasts:
        past = pasts[merchant.id]
        wanted = [media_id for media_id in dict.fromkeys(media_ids) if _can_be_replayed(media_id, past)]
        if not wanted:
            raise InputError("no media is left to be replayed")
        streams = [Stream(merchant.id, media_id, Target.PLAY_COUNT, Group.ALL) for media_id in wanted]
        recordings = _fetch(past, streams, minutes, clock)
    if not recordings:
        raise InputError(f"the API has no plays of these media in the last {days} days")
    _report(recordings, _thresholds(settings, wanted), output)


# ---- where the plays come from ----


def _merchant_of(settings: Settings, media_ids: Iterable[str]) -> MerchantSettings:
    """The merchant whose media they are."""
    owners = {media.id: merchant for merchant in settings.merchants for media in merchant.media}
    found: dict[str, MerchantSettings] = {}
    for media_id in media_ids:
        owner = owners.get(media_id)
        if owner is None:
            raise InputError(f"--media: {media_id} is not in the configuration; add it there, or correct the id")
        found[owner.id] = owner
    if len(found) > 1:
        raise InputError(f"--media: the media are of {' and '.join(found)}; replay one merchant at a time")
    return next(iter(found.values()))


def _can_be_replayed(media_id: str, past: MerchantHistory) -> bool:
    """Whether a media is always on; says so where it is not."""
    media = past.media(media_id)
    if media is None:
        print(f"media {media_id} is left out: the catalog does not know it", file=sys.stderr)
        return False
    if media.live_event_id or media.encode_type.lower() not in _FILES:
        print(f"media {media_id} is left out: it is live, and when its past events ran is not known", file=sys.stderr)
        return False
    return True


def _fetch(past: MerchantHistory, streams: Sequence[Stream], minutes: MinuteRange, clock: Clock) -> list[Recording]:
    plays: dict[str, dict[Minute, float | None]] = {stream.media_id: {} for stream in streams}
    for stream in streams:
        past.want(stream, minutes)
    with tqdm(
        total=len(streams) * len(minutes), desc="fetching", unit="min", unit_scale=True, disable=None
    ) as progress:
        for part in fetch([past], clock):
            for minute, values in (part.rows or {}).items():
                if minute in part.minutes:
                    plays[part.stream.media_id][minute] = total_of(values)
            progress.update(len(part.minutes))
    recordings = [_recording(media_id, shown, minutes.last) for media_id, shown in plays.items() if shown]
    return [each for each in recordings if each.minutes]


def _recording(media_id: str, shown: Mapping[Minute, float | None], last: Minute) -> Recording:
    """A minute without a row is one without plays, but for those before the first row: the media may be younger.

    A minute whose plays cannot be used is left out.
    """
    known = {minute: shown.get(minute, 0.0) for minute in range(min(shown), last + 1)}
    plays = {minute: value for minute, value in known.items() if value is not None}
    return Recording(media_id, array("q", plays), array("d", plays.values()))


def _thresholds(settings: Settings | None, media_ids: Sequence[str]) -> Mapping[str, Thresholds | None]:
    """By media id, "" for the whole merchant: those of the merchant that has most of the media, or the defaults."""
    if settings is None:
        return dict.fromkeys(("", *media_ids), DEFAULT_THRESHOLDS)
    ids = set(media_ids)
    merchant = max(settings.merchants, key=lambda each: len(ids & {media.id for media in each.media}))
    known = {media.id: media for media in merchant.media}
    return {media_id: settings.thresholds(merchant, known.get(media_id)) for media_id in ("", *media_ids)}


# ---- output ----


def _report(recordings: Sequence[Recording], thresholds: Mapping[str, Thresholds | None], output: Output) -> None:
    # Those that this process may use.
    processes = len(os.sched_getaffinity(0))
    total = sum(len(each.minutes) for each in recordings)
    with tqdm(total=total, desc="replaying", unit="min", unit_scale=True, disable=None) as bar:
        result = backtest(
            recordings, thresholds, processes=processes, progress=bar.update, plain=output.plot is not None
        )
    since = output.since
    shown = [each for each in result.alerts if since is None or start_of(each.start) >= since]
    for alert in shown:
        print(_as_json(alert) if output.json else _in_words(alert))
    count = f"{len(shown)} alert{'' if len(shown) == 1 else 's'}"
    print(f"{count}; {len(recordings)} media, {total / DAY_MINUTES:,.1f} media-days of plays", file=sys.stderr)
    if output.plot is not None:
        _draw(output.plot, result, shown, since)


def _as_json(alert: Alert) -> str:
    return json.dumps(
        {
            "media_id": alert.media_id,
            "severity": alert.severity,
            "start": format_instant(start_of(alert.start)),
            "end": format_instant(start_of(alert.end)),
            "ratio": round(alert.ratio, 4),
            "expected": round(alert.expected, 2),
            "actual": int(alert.actual) if alert.actual.is_integer() else alert.actual,
            "onset": format_instant(start_of(alert.onset)),
            "plays_lost": round(alert.lost),
            "state": alert.state,
        },
        ensure_ascii=False,
    )


def _in_words(alert: Alert) -> str:
    return (
        f"{format_instant(start_of(alert.start))} to {format_instant(start_of(alert.end))}  {alert.severity:8}  "
        f"{alert.media_id or 'the whole merchant'}: {alert.ratio:.0%} missing at worst "
        f"({alert.actual:g} of {alert.expected:.1f} plays in that minute), "
        f"onset {format_instant(start_of(alert.onset))}, {alert.lost:,.0f} plays lost{_STATES[alert.state]}"
    )


_STATES = {
    IncidentState.OPEN: ", not ended",
    IncidentState.ENDED: "",
    IncidentState.ACCEPTED: ", then accepted as the new baseline",
}


def _draw(path: Path, result: Backtest, alerts: Sequence[Alert], since: float | None) -> None:
    strips = []
    for media_id, played in result.recordings.items():
        mine = [each for each in alerts if each.media_id == media_id]
        start = 0 if since is None else bisect_left(played.minutes, minute_of(since))
        series = (played.minutes[start:], played.plays[start:], result.expected[media_id][start:])
        strips.append(plot.Strip(media_id or "the whole merchant", *series, mine))
    if not any(strip.minutes for strip in strips):
        raise InputError("--plot: there are no plays at or after --evaluate-from to draw")
    try:
        path.write_text(plot.draw("Plays a minute, and where the drop alerts fire (UTC)", strips), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the disk and the folder") from error
