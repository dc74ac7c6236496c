"""The faults that the simulated API shows on request, and the switch that turns them on and off."""

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
    """A fault setting cannot be used; the text is one line that names every such setting.

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

    late_minutes: Span = Field(default=1.0, description="minutes from the end of a minute until its row appears")
    late_jitter: Span = Field(default=0.0, description="up to so many minutes more, another number for each minute")
    revise_up: Rate = Field(default=0.0, description="share of the minutes whose values are too low at first")
    revise_down: Rate = Field(default=0.0, description="share of the minutes whose values are too high at first")
    revise_minutes: Span = Field(default=5.0, description="minutes after its row appears until a value is final")
    stalled_since: Instant | None = Field(
        default=None,
        description="Unix time since when no row arrives or changes; they all do once it is null again",
    )
    gone: tuple[str, ...] = Field(default=(), description="ids of media that answer 404")
    drop: dict[str, Rate] = Field(
        default_factory=dict,
        description='media id (or "" for all others) to the share of plays left, from now on',
    )

    omit_zero: bool = Field(default=True, description="leave out rows and labels whose value is 0")
    form: Literal["array", "object", "braced"] = Field(
        default="array", description="the list bare, in an object, or in braces that are not JSON"
    )
    values: Literal["flat", "nested", "pairs"] = Field(
        default="flat",
        description="a group's values beside the date, in an object, or as a list of value and count",
    )
    strings: bool = Field(default=False, description="numbers are written as strings")
    decimals: bool = Field(
        default=False, description="seconds played have three decimals: they are a thousandth more than they were"
    )
    bad_rate: Rate = Field(
        default=0.0, description="share of the values that are written as -1 or N/A, other ones in each minute"
    )
    nulls: bool = Field(default=False, description="a label's 0 is written as null")
    total: bool = Field(default=False, description="a group's row has the value of `all`, too")

    error_rate: Rate = Field(default=0.0, description="share of requests answered with error_status")
    error_status: int = Field(default=500, ge=500, le=599, description="the status of error_rate")
    hang_rate: Rate = Field(default=0.0, description="share of requests answered only after hang_seconds")
    hang_seconds: Span = Field(default=30.0, description="seconds for which hang_rate delays an answer")
    cut_rate: Rate = Field(default=0.0, description="share of good answers cut off in the middle")
    malformed_rate: Rate = Field(default=0.0, description="share of good answers whose JSON is broken")
    html_rate: Rate = Field(default=0.0, description="share of good answers replaced by an HTML page with status 200")
    text_rate: Rate = Field(default=0.0, description="share of good answers sent as text/plain")

    token_life: Span = Field(default=3600.0, description="seconds for which a new token is good")
    token_refused: bool = Field(default=False, description="no token is given out")
    token_refusal_rate: Rate = Field(
        default=0.0, description="share of requests that revoke their good token, with a 401"
    )
    expiry_field: Literal["expiration", "expired_at"] = Field(
        default="expiration", description="the field that names the token's end"
    )

    rate_limit: int = Field(default=50, ge=1, description="requests a merchant may send in 60 seconds")
    rate_window: Literal["sliding", "fixed"] = Field(
        default="sliding", description="whether the 60 seconds end now, or start with each minute"
    )
    retry_after: bool = Field(default=True, description="a 429 says when to come back")
    max_range: int = Field(default=0, ge=0, description="minutes that a request by minute may ask for; 0 is any number")


def make_faults(settings: Mapping[str, object]) -> Faults:
    """Faults from settings as they come from the command line, numbers as text. Raises FaultError."""
    try:
        return Faults.model_validate(settings)
    except ValidationError as error:
        raise FaultError(_problems(error)) from error


def changed(faults: Faults, changes: Mapping[str, object]) -> Faults:
    """The faults with some settings replaced, values of JSON's own types only. Raises FaultError."""
    whole = json.dumps(faults.model_dump(mode="json") | dict(changes))
    try:
        return Faults.model_validate_json(whole, strict=True)
    except ValidationError as error:
        raise FaultError(_problems(error)) from error


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    return [(".".join(map(str, each["loc"])), _problem(each["msg"])) for each in error.errors()]


def _problem(message: str) -> str:
    if message == "Extra inputs are not permitted":
        return "no such fault; known are " + ", ".join(Faults.model_fields)
    return message[0].lower() + message[1:]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Which faults were in force when.

    Attributes:
        instants: When each setting began, Unix seconds, ascending; the first is minus infinity.
        settings: The settings, one for each instant.
        longest: Seconds from the end of a minute until it is final under any of the settings.
    """

    instants: tuple[float, ...]
    settings: tuple[Faults, ...]
    longest: float

    def extended(self, instant: float, faults: Faults) -> "Timeline":
        """The timeline with other settings from an instant on."""
        longest = max(self.longest, seconds_until_final(faults))
        return Timeline((*self.instants, instant), (*self.settings, faults), longest)

    def at_end_of(self, minute: Minute) -> Faults:
        """The settings that were in force when a minute ended."""
        return self.settings[bisect_left(self.instants, end_of(minute)) - 1]


def seconds_until_final(faults: Faults) -> float:
    """Seconds from the end of a minute until its values are final at the latest."""
    return (faults.late_minutes + faults.late_jitter + faults.revise_minutes) * 60


class FaultSwitch:
    """The faults in force, which a test or the control path replaces at any time. Thread-safe.

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
        """The settings in force."""
        return self._timeline.settings[-1]

    def set(self, /, **changes: object) -> Faults:
        """Replace some settings from now on, and return all. Raises FaultError, and then nothing changes."""
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
        """What a minute shows at an instant: nothing yet (None), its first value, or the final one."""
        if self.final_by(end_of(minute)) <= now:
            return FINAL
        appears = self.appears(merchant_id, minute)
        if appears > now:
            return None
        faults = self._timeline.at_end_of(minute)
        if appears + faults.revise_minutes * 60 <= now:
            return FINAL
        return Revision(faults.revise_up, faults.revise_down)
