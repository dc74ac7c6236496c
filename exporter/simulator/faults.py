"""The faults that the simulated API can inject, and the switch that turns them on and off."""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exporter.model import Minute, end_of
from exporter.simulator.series import FINAL, Revision, World

Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Span = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Instant = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FaultError(Exception):
    """A fault setting is not valid; the text is one line that names every such setting.

    Attributes:
        problems: Name of the setting and what is wrong with it, in pairs.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems))
        self.problems = tuple(problems)


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


def make_faults(settings: Mapping[str, object]) -> Faults:
    """Faults from settings as they come from the command line, numbers as text. Raises FaultError."""
    try:
        return Faults.model_validate(settings)
    except ValidationError as error:
        raise FaultError(_problems(error)) from error


def changed(faults: Faults, changes: Mapping[str, object]) -> Faults:
    """The faults with some settings replaced by values from JSON. Raises FaultError."""
    whole = json.dumps(faults.model_dump(mode="json") | dict(changes))
    try:
        return Faults.model_validate_json(whole, strict=True)
    except ValidationError as error:
        raise FaultError(_problems(error)) from error


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    return [(".".join(map(str, each["loc"])), _problem(each["msg"])) for each in error.errors()]


def _problem(message: str) -> str:
    if message == "Extra inputs are not permitted":
        return "unknown fault; valid faults are " + ", ".join(Faults.model_fields)
    return message[0].lower() + message[1:]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The history of the faults.

    Attributes:
        instants: When each setting began, Unix seconds, ascending; the first is minus infinity.
        settings: The settings, one for each instant.
        longest: Seconds from the end of a minute until it is final under any of the settings.
    """

    instants: tuple[float, ...]
    settings: tuple[Faults, ...]
    longest: float

    def extended(self, instant: float, faults: Faults) -> "Timeline":
        """The history with other settings from an instant on."""
        longest = max(self.longest, seconds_until_final(faults))
        return Timeline((*self.instants, instant), (*self.settings, faults), longest)

    def at_end_of(self, minute: Minute) -> Faults:
        """The settings at the end of a minute."""
        return self.settings[bisect_left(self.instants, end_of(minute)) - 1]


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
        self._timeline = Timeline((float("-inf"),), (first,), seconds_until_final(first))
        if first.drop:
            world.thin(clock(), first.drop)

    @property
    def now(self) -> Faults:
        """The current settings."""
        return self._timeline.settings[-1]

    def set(self, /, **changes: object) -> Faults:
        """Replace some settings and return all of them. Raises FaultError without a change."""
        with self._lock:
            before = self.now
            after = changed(before, changes)
            instant = max(self._clock(), self._timeline.instants[-1])
            self._timeline = self._timeline.extended(instant, after)
            if after.drop != before.drop:
                self._world.thin(instant, after.drop)
            return after

    def final_by(self, instant: float) -> float:
        """The instant (Unix seconds) by which every minute that ended at an instant or before is final."""
        return instant + self._timeline.longest

    def appears(self, merchant_id: str, minute: Minute) -> float:
        """The instant (Unix seconds) at which a minute's row appears, stalls aside."""
        faults = self._timeline.at_end_of(minute)
        late = faults.late_minutes
        if faults.late_jitter:
            late += faults.late_jitter * self._world.noise(merchant_id, "lateness", minute)
        return end_of(minute) + late * 60

    def revision(self, merchant_id: str, minute: Minute, now: float) -> Revision | None:
        """The visible revision of a minute at an instant: none yet (None), the first, or the final one."""
        if self.final_by(end_of(minute)) <= now:
            return FINAL
        appears = self.appears(merchant_id, minute)
        if appears > now:
            return None
        faults = self._timeline.at_end_of(minute)
        if appears + faults.revise_minutes * 60 <= now:
            return FINAL
        return Revision(faults.revise_up, faults.revise_down)
