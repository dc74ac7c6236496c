"""The endpoints of the simulated API, and what they answer: token, aggregations, media, live event."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from exporter.model import Group, Stream, minute_of
from exporter.simulator.catalog import Media, Schedule
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.forms import write_rows
from exporter.simulator.gate import Credentials, Tokens, accepts
from exporter.simulator.query import Query, read_query
from exporter.simulator.reply import Reply, bad_request, json_reply, not_found, unauthorized
from exporter.simulator.rows import Reader
from exporter.simulator.series import World

Parameters = Mapping[str, str]

CREATED = datetime(2025, 4, 1, tzinfo=UTC)


class Endpoints:
    """Answers the calls to the API. Every method raises Refusal for a refused call."""

    def __init__(self, world: World, switch: FaultSwitch, tokens: Tokens, credentials: Credentials) -> None:
        self._world = world
        self._reader = Reader(world, switch)
        self._tokens = tokens
        self._credentials = credentials

    def token(self, merchant_id: str, body: bytes, now: float, faults: Faults) -> Reply:
        """Issue an access token for a mail address and a password."""
        try:
            account = json.loads(body)
        except (ValueError, RecursionError):
            account = None
        if not isinstance(account, dict):
            raise bad_request("the body is not a JSON object")
        known = accepts(self._credentials.mail_address, account.get("mail_address"))
        known &= accepts(self._credentials.password, account.get("password"))
        if faults.token_refused or not known:
            raise unauthorized("the mail address or the password is not accepted")
        token, end = self._tokens.issue(merchant_id, now, faults.token_life)
        return json_reply({"token": token, faults.expiry_field: iso(end)})

    def aggregations(self, merchant_id: str, parameters: Parameters, now: float, faults: Faults) -> Reply:
        """The rows of one stream."""
        query = read_query(parameters, merchant_id, now, self._world.zone, faults.max_range)
        media_id = query.stream.media_id
        if media_id and (media_id in faults.gone or media_id not in self._world.catalog(merchant_id)):
            raise not_found("MEDIA", "no such media")
        rows = self._reader.rows(query.stream, query.interval, query.minutes, now)
        if faults.omit_zero:
            rows = [row for row in rows if any(row.values)]
        body = write_rows(rows, query.stream, self._totals(query, now, faults), faults, minute_of(now))
        return Reply(200, body.encode(), rows=len(rows))

    def media(self, merchant_id: str, reference: str, faults: Faults) -> Reply:
        """The catalog entry of a media."""
        media = find(self._world.catalog(merchant_id), reference)
        if media is None or media.id in faults.gone:
            raise not_found("MEDIA", "no such media")
        return json_reply(media_fields(media))

    def live_event(self, merchant_id: str, event_id: str, now: float) -> Reply:
        """The state of one live event."""
        for media in self._world.catalog(merchant_id).values():
            if media.live_event_id == event_id and media.schedule is not None:
                return json_reply(event_fields(media, media.schedule, now, self._world.zone))
        raise not_found("LIVE_EVENT", "no such live event")

    def _totals(self, query: Query, now: float, faults: Faults) -> dict[str, int]:
        """The values of `all` by date, if a fault adds them to the parts."""
        if not faults.total or query.stream.group is Group.ALL:
            return {}
        whole = Stream(query.stream.merchant_id, query.stream.media_id, query.stream.target, Group.ALL)
        return {row.date: row.values[0] for row in self._reader.rows(whole, query.interval, query.minutes, now)}


def media_fields(media: Media) -> dict[str, object]:
    """The catalog entry of a media."""
    return {
        "id": media.id,
        "ref_id": media.ref_id,
        "name": media.name,
        "live_event_id": media.live_event_id,
        "encode_type": media.encode_type,
        "duration": media.duration,
        "tags": list(media.tags),
        "created_at": iso(CREATED.timestamp()),
        "updated_at": iso(CREATED.timestamp()),
    }


def event_fields(media: Media, schedule: Schedule, now: float, zone: ZoneInfo) -> dict[str, object]:
    """The live event of a media at an instant (Unix seconds)."""
    start = newest_start(schedule, datetime.fromtimestamp(now, zone))
    end = start + schedule.length * 60
    running = start <= now < end
    return {
        "id": media.live_event_id,
        "media_id": media.id,
        "name": media.name,
        "encode_status": "encode_status_running" if running else "encode_status_stopped",
        "live_encode_start_at": iso(start),
        "live_encode_end_at": None if running else iso(end),
    }


def newest_start(schedule: Schedule, now: datetime) -> float:
    """The instant (Unix seconds) of the newest start at or before a local time."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    days = [midnight - timedelta(days=back) for back in range(8)]
    running = [day for day in days if day.weekday() in schedule.weekdays]
    starts = [day + timedelta(minutes=start) for day in running for start in schedule.starts]
    return max(start for start in starts if start <= now).timestamp()


def find(catalog: Mapping[str, Media], reference: str) -> Media | None:
    """The media with this id, or with the ref_id of `ref:REF_ID`."""
    if not reference.startswith("ref:"):
        return catalog.get(reference)
    return next((media for media in catalog.values() if f"ref:{media.ref_id}" == reference), None)


def iso(instant: float) -> str:
    """An instant (Unix seconds) as the API writes it."""
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
