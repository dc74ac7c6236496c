"""The answers of the simulated API about media and live events. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from exporter.simulator.catalog import Media, Schedule

CREATED = datetime(2025, 4, 1, tzinfo=UTC)


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
