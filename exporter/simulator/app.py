"""The simulated API as a function from request to response: routing, authentication, faults, request journal."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from random import Random
from threading import Event
from urllib.parse import parse_qsl

import structlog

from exporter.httpd.messages import Request as HttpRequest
from exporter.httpd.messages import Response
from exporter.simulator.control import PREFIX, control
from exporter.simulator.endpoints import Endpoints
from exporter.simulator.faults import Faults, FaultSwitch
from exporter.simulator.gate import Credentials, RateLimit, Tokens, accepts
from exporter.simulator.journal import Journal, Request
from exporter.simulator.reply import JSON, Refusal, Reply, bad_request, not_found, perhaps_damaged, unauthorized
from exporter.simulator.series import World

API_PATH = re.compile(
    r"/v1/merchants/(?P<merchant>[^/]+)/"
    r"(?:(?P<plain>auth-token|aggregations)|(?P<named>medias|live_events)/(?P<name>[^/]+))/?"
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API.

    Attributes:
        merchant_id: The merchant of its path.
        endpoint: The endpoint in the path.
        name: The media or event after the endpoint, or "".
        request: The whole request.
    """

    merchant_id: str
    endpoint: str
    name: str
    request: HttpRequest


class SimulatorApp:
    """The simulated API and its control path; call it with a request.

    Attributes:
        world: The final values.
        faults: The switch for the faults.
        journal: The received requests.
    """

    def __init__(
        self,
        world: World,
        faults: FaultSwitch,
        clock: Callable[[], float],
        sleep: Callable[[float], object] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Simulate an API.

        Args:
            world: The final values.
            faults: The switch for the faults.
            clock: Returns Unix seconds.
            sleep: Delays a hanging answer by seconds; the default waits in real time, until `close`.
            credentials: The accepted credentials; the default accepts any.
        """
        self.world = world
        self.faults = faults
        self.journal = Journal()
        self._clock = clock
        self._closing = Event()
        self._sleep = sleep or self._closing.wait
        self._credentials = credentials or Credentials()
        self._limit = RateLimit()
        self._tokens = Tokens(world.seed)
        # Decides which requests a fault hits: reproducible for a seed and an order of requests. Thread-safe.
        self._random = Random(world.seed)  # noqa: S311 - no secret
        self._endpoints = Endpoints(world, faults, self._tokens, self._credentials)

    def __call__(self, request: HttpRequest) -> Response:
        """Answer one request."""
        arrived = self._clock()
        method, path, query = request.method, request.path, request.query
        if path.startswith(PREFIX):
            reply = control(self.world, self.faults, self.journal, request, _parameters(request))
        else:
            call = _call(path, request)
            reply = self._api(call, arrived)
            endpoint = call.endpoint or "other"
            self.journal.add(
                Request(arrived, call.merchant_id, endpoint, method, path, query, reply.status, reply.rows)
            )
        log.info("request", method=method, path=path, query=query, status=reply.status, rows=reply.rows)
        headers = {
            "Content-Type": reply.content_type,
            "Date": formatdate(self._clock(), usegmt=True),
            **reply.headers,
        }
        return Response(reply.status, tuple(headers.items()), reply.body, reply.cut)

    def open(self) -> None:
        """Let hanging answers hang again, after `close`."""
        self._closing.clear()

    def close(self) -> None:
        """Send hanging answers at once, so that a server can stop."""
        self._closing.set()

    def _api(self, call: Call, arrived: float) -> Reply:
        faults = self.faults.now
        try:
            self._check_limit(call, arrived, faults)
            self._perhaps_fail(faults)
            return perhaps_damaged(self._answer(call, faults), faults, self._hits)
        except Refusal as refusal:
            return refusal.reply

    def _check_limit(self, call: Call, arrived: float, faults: Faults) -> None:
        wait = self._limit.take(call.merchant_id, arrived, faults.rate_limit, faults.rate_window)
        if wait is not None:
            headers = {"Retry-After": str(max(1, math.ceil(wait)))} if faults.retry_after else {}
            raise Refusal(429, "TOO_MANY_REQUESTS", "the rate limit is reached", headers)

    def _answer(self, call: Call, faults: Faults) -> Reply:
        if not call.endpoint:
            raise not_found("PATH", "no such path")
        expected = "POST" if call.endpoint == "auth-token" else "GET"
        if call.request.method != expected:
            raise Refusal(405, "METHOD_NOT_ALLOWED", f"use {expected}")
        if not accepts(self._credentials.api_key, call.request.headers.get("x-streaks-api-key")):
            raise unauthorized("the API key is not accepted")
        if call.request.headers.get("content-type", "").partition(";")[0].strip() != JSON:
            raise bad_request(f"Content-Type is not {JSON}")
        # Read again, as a fault may have delayed the answer.
        now = self._clock()
        if call.endpoint == "auth-token":
            return self._endpoints.token(call.merchant_id, call.request.body, now, faults)
        self._check_token(call, now, faults)
        match call.endpoint:
            case "aggregations":
                return self._endpoints.aggregations(call.merchant_id, _parameters(call.request), now, faults)
            case "medias":
                return self._endpoints.media(call.merchant_id, call.name, faults)
            case _:
                return self._endpoints.live_event(call.merchant_id, call.name, now)

    def _check_token(self, call: Call, now: float, faults: Faults) -> None:
        scheme, _, token = call.request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not self._tokens.good(token, call.merchant_id, now):
            raise unauthorized("the access token is not accepted")
        if self._hits(faults.token_refusal_rate):
            self._tokens.revoke(token)
            raise unauthorized("the access token was revoked")

    def _perhaps_fail(self, faults: Faults) -> None:
        if self._hits(faults.hang_rate):
            self._sleep(faults.hang_seconds)
        if self._hits(faults.error_rate):
            raise Refusal(faults.error_status, "SERVER_ERROR", "internal server error")

    def _hits(self, rate: float) -> bool:
        """Whether a rate (0 to 1) hits this request."""
        return rate > 0 and self._random.random() < rate


def _call(path: str, request: HttpRequest) -> Call:
    match = API_PATH.fullmatch(path)
    if match is None:
        return Call("", "", "", request)
    return Call(match["merchant"], match["plain"] or match["named"], match["name"] or "", request)


def _parameters(request: HttpRequest) -> dict[str, str]:
    return dict(parse_qsl(request.query, keep_blank_values=True))
