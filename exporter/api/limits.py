"""Size limits: how much of an answer is read and parsed, by what was asked for. Pure."""

from dataclasses import dataclass

from exporter.errors import TooLarge
from exporter.model import DAY_MINUTES, Group, Stream

# Bytes read of the body of an error.
LARGEST_ERROR = 64 * 1024

# A row has one value, and perhaps a few more. Split by a group it has one for each label value: there are 250
# countries, and as many players and sites as the merchant has. A label value takes one JSON value, or three as an
# object with its count. Python needs about 100 MiB for the largest number of values;
# more is asked for in shorter ranges.
VALUES_A_ROW, GROUP_VALUES_A_ROW = 100, 10_000
ROWS_BESIDE = 10
MOST_VALUES = 250_000
BYTES_A_VALUE = 64
BYTES_BESIDE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """The largest answer to accept.

    Attributes:
        size: Bytes, compressed or not.
        values: Number of JSON values: objects, lists, numbers, strings, true, false and null.
        asked: What was asked for, for messages.
    """

    size: int
    values: int
    asked: str

    def exceeded(self, came: str) -> str:
        """The message for a larger answer.

        Args:
            came: What came, such as `300 values`.
        """
        return (
            f"the answer is too large: asked for {self.asked}, got {came}, "
            f"the limit is {self.size} bytes and {self.values} values"
        )

    def check(self, body: bytes) -> None:
        """Count the values before parsing them: 3 bytes of JSON can take 100 bytes as Python objects.

        Raises:
            TooLarge: There are more values than the limit.
        """
        # Each value follows one of these characters. Those inside of strings are counted too; the limits leave room.
        came = 1 + sum(map(body.count, (b",", b"[", b"{")))
        if came > self.values:
            raise TooLarge(self.exceeded(f"{came} values"))


def rows_limit(stream: Stream, minutes: int, *, hourly: bool = False) -> Limit:
    """The limit of an answer with rows of a stream.

    Args:
        stream: The stream.
        minutes: Number of minutes asked for.
        hourly: Whether there is one row an hour.
    """
    unit, length = ("day", DAY_MINUTES) if stream.target.by_day else ("hour", 60) if hourly else ("minute", 1)
    rows = -(-minutes // length)
    a_row = VALUES_A_ROW if stream.group is Group.ALL else GROUP_VALUES_A_ROW
    values = min((rows + ROWS_BESIDE) * a_row, MOST_VALUES)
    asked = f"{rows} {unit}{'s' * (rows != 1)} of {stream}"
    return Limit(BYTES_BESIDE + values * BYTES_A_VALUE, values, asked)


def catalog_limit(asked: str) -> Limit:
    """The limit of an answer about one media or live event."""
    return Limit(1024 * 1024, 10_000, asked)


TOKEN_LIMIT = Limit(64 * 1024, 100, "a token")
