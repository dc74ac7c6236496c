"""The control path of the simulated API: reads and changes its faults, lists its catalog and its requests."""

import json
from collections.abc import Mapping
from dataclasses import asdict

from pydantic import ValidationError

from exporter.simulator.content import media_fields
from exporter.simulator.faults import FaultSwitch, problems
from exporter.simulator.journal import Journal
from exporter.simulator.reply import Reply, json_reply
from exporter.simulator.series import World

PREFIX = "/control/"
DEFAULT_MERCHANT = "demo"
NEWEST = 100


class Control:
    """Answers `/control/faults`, `/control/catalog` and `/control/requests`."""

    def __init__(self, world: World, switch: FaultSwitch, journal: Journal) -> None:
        self._world = world
        self._switch = switch
        self._journal = journal

    def answer(self, method: str, path: str, parameters: Mapping[str, str], body: bytes) -> Reply:
        """The answer to one request, without faults."""
        match method, path.removeprefix(PREFIX):
            case "GET", "faults":
                return json_reply(self._switch.now.model_dump(mode="json"))
            case "POST", "faults":
                return self._set_faults(body)
            case "GET", "catalog":
                return self._catalog(parameters.get("merchant", DEFAULT_MERCHANT))
            case "GET", "requests":
                return self._requests()
        return _wrong(404, "GET or POST /control/faults, GET /control/catalog, GET /control/requests")

    def _set_faults(self, body: bytes) -> Reply:
        try:
            changes = json.loads(body)
        except (ValueError, RecursionError):
            return _wrong(400, "the body is not JSON")
        if not isinstance(changes, dict):
            return _wrong(400, 'the body is not a JSON object like {"late_minutes": 3}')
        try:
            return json_reply(self._switch.set(**changes).model_dump(mode="json"))
        except ValidationError as error:
            return _wrong(400, "; ".join(f"{name}: {problem}" for name, problem in problems(error)))

    def _catalog(self, merchant_id: str) -> Reply:
        media = [media_fields(media) for media in self._world.catalog(merchant_id).values()]
        return json_reply({"merchant": merchant_id, "media": media})

    def _requests(self) -> Reply:
        counts = [
            {"endpoint": endpoint, "status": status, "count": count}
            for (endpoint, status), count in sorted(self._journal.counts().items())
        ]
        newest = [asdict(request) for request in self._journal.newest()[-NEWEST:]]
        return json_reply({"counts": counts, "newest": newest})


def _wrong(status: int, message: str) -> Reply:
    return json_reply({"error": message}, status)
