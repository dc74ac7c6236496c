"""The faults that the simulated API can inject, and the switch that turns them on and off."""

import json
from bisect import bisect_left
from collections.abc import Callable
from operator import itemgetter
from threading import Lock
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.model import Minute, end_of
from exporter.simulator.series import FINAL, Revision, World

Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Span = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Instant = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Faults(BaseModel):
    """How the simulated API behaves. The defaults are those of a healthy API.

    Each field's description tells what it does; rates are shares of the requests, 0 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    late_minutes: Span = Field(
        default=1.0, description="delay in minutes from the end of a minute until its row appears"
    )
    late_jitter: Span = Field(default=0.0, description="maximum additional delay in minutes, random for each minute")
    revise_up: Rate = Field(default=0.0, description="share of minutes whose values increase later")
    revise_down: Rate = Field(default=0.0, description="share of minutes whose values decrease later")
    revise_minutes: Span = Field(default=5.0, description="minutes until a value is final after its row appears")
    stalled_since: Instant | None = Field(
        default=None,
        description="Unix time since when no row arrives or changes; they all do once it is null again",
    )
    gone: tuple[str, ...] = Field(default=(), description="ids of media for which the API returns 404")
    drop: dict[str, Rate] = Field(
        default_factory=dict,
        description='media id (or "" for all others) to the share of plays left, from now on',
    )

    omit_zero: bool = Field(default=True, description="omit rows and labels whose value is 0")
    form: Literal["array", "object", "braced"] = Field(
        default="array", description="format of the list: array, object, or braces that are not JSON"
    )
    values: Literal["flat", "nested", "pairs"] = Field(
        default="flat",
        description="format of the values of a group: beside the date, in an object, or as a list of value and count",
    )
    strings: bool = Field(default=False, description="write numbers as strings")
    decimals: bool = Field(
        default=False, description="write seconds played with three decimals, each value increased by a thousandth"
    )
    bad_rate: Rate = Field(
        default=0.0, description="share of values written as -1 or N/A, different values in each minute"
    )
    nulls: bool = Field(default=False, description="write a 0 of a label as null")
    total: bool = Field(default=False, description="add the value of `all` to the rows of a group")

    error_rate: Rate = Field(default=0.0, description="share of requests that fail with error_status")
    error_status: int = Field(default=500, ge=500, le=599, description="HTTP status for error_rate")
    hang_rate: Rate = Field(default=0.0, description="share of requests delayed by hang_seconds")
    hang_seconds: Span = Field(default=30.0, description="delay in seconds for hang_rate")
    cut_rate: Rate = Field(default=0.0, description="share of answers cut off in the middle")
    malformed_rate: Rate = Field(default=0.0, description="share of answers with malformed JSON")
    html_rate: Rate = Field(default=0.0, description="share of answers replaced by an HTML page with status 200")
    text_rate: Rate = Field(default=0.0, description="share of answers sent as text/plain")

    token_life: Span = Field(default=3600.0, description="lifetime of a token in seconds")
    token_refused: bool = Field(default=False, description="refuse to issue tokens")
    token_refusal_rate: Rate = Field(
        default=0.0, description="share of requests whose valid token is revoked, with a 401"
    )
    expiry_field: Literal["expiration", "expired_at"] = Field(
        default="expiration", description="name of the field with the expiry of the token"
    )

    rate_limit: int = Field(default=50, ge=1, description="maximum requests of a merchant in 60 seconds")
    rate_window: Literal["sliding", "fixed"] = Field(
        default="sliding", description="whether the 60 seconds slide, or start with each minute"
    )
    retry_after: bool = Field(default=True, description="send Retry-After with a 429")
    max_range: int = Field(
        default=0, ge=0, description="maximum range in minutes of a request by minute; 0 means no limit"
    )


def problems(error: ValidationError) -> list[tuple[str, str]]:
    """The name of each setting that is not valid, and what is wrong with it."""
    return [(".".join(map(str, each["loc"])), _problem(each["msg"])) for each in error.errors()]


def _problem(message: str) -> str:
    if message == "Extra inputs are not permitted":
        return "unknown fault; valid faults are " + ", ".join(Faults.model_fields)
    return message[0].lower() + message[1:]


def seconds_until_final(faults: Faults) -> float:
    """Maximum seconds from the end of a minute until its values are final."""
    return (faults.late_minutes + faults.late_jitter + faults.revise_minutes) * 60


class FaultSwitch:
    """The current faults, which a test or the control path can replace at any time. Thread-safe.

    How late a minute's row is and how its first value differs is decided by the settings in force when the
    minute ended: a row that is visible stays visible when the settings change. A drop begins when it is set.
    """

    def __init__(self, world: World, clock: Callable[[], float], faults: Faults | None = None) -> None:
        self._clock = clock
        self._world = world
        self._lock = Lock()
        first = faults or Faults()
        # When each setting began (Unix seconds), ascending. Replaced as a whole, never changed.
        self._history: tuple[tuple[float, Faults], ...] = ((float("-inf"), first),)
        # From the end of a minute until it is final under any of the settings (seconds).
        self._longest = seconds_until_final(first)
        if first.drop:
            world.thin(clock(), first.drop)

    @property
    def now(self) -> Faults:
        """The current settings."""
        return self._history[-1][1]

    def set(self, /, **changes: object) -> Faults:
        """Replace some settings by values as JSON has them, and return all of them.

        Raises:
            ValidationError: A value is not valid; nothing has changed.
        """
        with self._lock:
            before = self.now
            whole = json.dumps(before.model_dump(mode="json") | changes)
            after = Faults.model_validate_json(whole, strict=True)
            instant = max(self._clock(), self._history[-1][0])
            self._longest = max(self._longest, seconds_until_final(after))
            self._history = (*self._history, (instant, after))
            if after.drop != before.drop:
                self._world.thin(instant, after.drop)
            return after

    def final_by(self, instant: float) -> float:
        """The instant (Unix seconds) by which every minute that ended at an instant or before is final."""
        return instant + self._longest

    def appears(self, merchant_id: str, minute: Minute) -> float:
        """The instant (Unix seconds) at which a minute's row appears, stalls aside."""
        faults = self._at_end_of(minute)
        late = faults.late_minutes + faults.late_jitter * self._world.noise(merchant_id, "lateness", minute)
        return end_of(minute) + late * 60

    def revision(self, merchant_id: str, minute: Minute, now: float) -> Revision | None:
        """The visible revision of a minute at an instant: none yet (None), the first, or the final one."""
        if self.final_by(end_of(minute)) <= now:
            return FINAL
        appears = self.appears(merchant_id, minute)
        if appears > now:
            return None
        faults = self._at_end_of(minute)
        if appears + faults.revise_minutes * 60 <= now:
            return FINAL
        return Revision(faults.revise_up, faults.revise_down)

    def _at_end_of(self, minute: Minute) -> Faults:
        return self._history[bisect_left(self._history, end_of(minute), key=itemgetter(0)) - 1][1]
