"""The control path of the simulated API: reads and changes its faults, lists its catalog and its requests."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from pydantic import ValidationError

from exporter.httpd.messages import Request
from exporter.simulator.endpoints import media_fields
from exporter.simulator.faults import FaultSwitch, problems
from exporter.simulator.journal import Journal
from exporter.simulator.reply import Reply, json_reply
from exporter.simulator.series import World

PREFIX = "/control/"
DEFAULT_MERCHANT = "demo"
NEWEST = 100


def control(
    world: World, switch: FaultSwitch, journal: Journal, request: Request, parameters: Mapping[str, str]
) -> Reply:
    """The answer to one request for `/control/faults`, `/control/catalog` or `/control/requests`, without faults."""
    match request.method, request.path.removeprefix(PREFIX):
        case "GET", "faults":
            return json_reply(switch.now.model_dump(mode="json"))
        case "POST", "faults":
            return _set_faults(switch, request.body)
        case "GET", "catalog":
            merchant_id = parameters.get("merchant", DEFAULT_MERCHANT)
            media = [media_fields(media) for media in world.catalog(merchant_id).values()]
            return json_reply({"merchant": merchant_id, "media": media})
        case "GET", "requests":
            return _requests(journal)
    return _wrong(404, "GET or POST /control/faults, GET /control/catalog, GET /control/requests")


def _set_faults(switch: FaultSwitch, body: bytes) -> Reply:
    try:
        changes = json.loads(body)
    except (ValueError, RecursionError):
        return _wrong(400, "the body is not JSON")
    if not isinstance(changes, dict):
        return _wrong(400, 'the body is not a JSON object like {"late_minutes": 3}')
    try:
        return json_reply(switch.set(**changes).model_dump(mode="json"))
    except ValidationError as error:
        return _wrong(400, "; ".join(f"{name}: {problem}" for name, problem in problems(error)))


def _requests(journal: Journal) -> Reply:
    counts = [
        {"endpoint": endpoint, "status": status, "count": count}
        for (endpoint, status), count in sorted(journal.counts().items())
    ]
    newest = [asdict(request) for request in journal.newest()[-NEWEST:]]
    return json_reply({"counts": counts, "newest": newest})


def _wrong(status: int, message: str) -> Reply:
    return json_reply({"error": message}, status)
