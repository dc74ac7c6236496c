"""The state file after damage: the exporter works with the readable rest, or ends with one clear line."""

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.api.answers import Media
from exporter.api.budget import RESTART_MARGIN, WINDOW, RequestBudget
from exporter.assembly import Polling
from exporter.config.settings import Settings
from exporter.errors import StateError
from exporter.model import Group, Minute, MinuteRange, Stream, minute_of
from exporter.serving.instruments import Instruments
from exporter.storage.schema import PAGE, empty_file, schema_pages
from exporter.storage.state import State, open_state
from tests.support.fakes import FakeClock

MEDIA = [f"media-{n:02}" for n in range(4)]
SITES = [f"site-{n}" for n in range(5)]
START = FakeClock().wall
MINUTES = 20

SETTINGS = Settings.model_validate(
    {
        "merchants": [
            {
                "id": merchant_id,
                "api_key": "k",
                "mail_address": "a@example.com",
                "password": "p",
                "collect": [
                    {"target": "play_count", "groups": ["all", "country"]},
                    {"target": "device_count"},
                    {"target": "key_delivery_count"},
                ],
                "media": [{"id": media_id} for media_id in MEDIA],
            }
            for merchant_id in ("m", "n")
        ],
    }
)


@contextlib.contextmanager
def polling(path: Path, clock: FakeClock) -> Iterator[tuple[State, Polling]]:
    """The objects that a start of the exporter loads from the state file."""
    state = open_state(path, clock.now, clock.monotonic)
    with state.read() as db:
        # These tests do not cover power cuts.
        db.execute("PRAGMA synchronous = OFF")
    try:
        built = Polling(SETTINGS, state, Instruments(), clock)
        yield state, built
        built.close()
    finally:
        state.close()


def plays_of(stream: Stream, minute: Minute) -> dict[str, float]:
    """The plays that the API returns."""
    return dict.fromkeys(SITES, 2.0) if stream.group is Group.COUNTRY else {"": 3.0}


def count(built: Polling, clock: FakeClock, minutes: int) -> None:
    """Let some minutes pass, and enter the plays of each."""
    clock.advance(60 * minutes)
    now = clock.now()
    for merchant in SETTINGS.merchants:
        for stream in merchant.streams():
            asked = built.ledger.to_ask(stream, now)
            if stream.target.by_day:
                rows = {asked.first: {"": 5.0 + minute_of(now) - minute_of(START)}}
            else:
                shown = MinuteRange(asked.first, min(asked.last, minute_of(now) - 3))
                rows = {minute: plays_of(stream, minute) for minute in range(shown.first, shown.last + 1)}
            built.ledger.enter(stream, asked, rows, now)
            built.parts[merchant.id].monitor.enter(stream, asked, rows, built.ledger.seen(stream), now)
    built.ledger.show_counted(now)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state file of a killed exporter, partly in the WAL."""
    path = tmp_path_factory.mktemp("prepared") / "state.db"
    clock = FakeClock()
    with polling(path, clock) as (state, built):
        for _ in range(MINUTES):
            count(built, clock, 1)
        for merchant_id, parts in built.parts.items():
            while (lookup := parts.catalog.next_lookup(clock.now())) is not None:
                parts.catalog.enter_media(lookup, Media("ref", f"Name {merchant_id}", "", "vod"), clock.now())
            parts.monitor.save(clock.now())
        for merchant in SETTINGS.merchants:
            limiter = RequestBudget(state, merchant.id, 45, clock)
            for _ in range(20):
                limiter.take().done()
            limiter.refused(1.0)
        with state.read() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        count(built, clock, 1)
        killed = path.with_name("killed.db")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{killed}{suffix}")
    return killed


def copy_of(prepared: Path, folder: Path) -> Path:
    path = folder / "state.db"
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{prepared}{suffix}", f"{path}{suffix}")
    return path


def later() -> FakeClock:
    clock = FakeClock()
    clock.advance(60 * (MINUTES + 2))
    return clock


# ---- one page ----

Series = tuple[str, str, str, str, str]


def totals(path: Path) -> dict[Series, tuple[int, Minute]]:
    """The total of each counter (millionths), and its newest minute."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {
            (merchant_id, media_id, target, grouping, label): (total, through)
            for merchant_id, media_id, target, grouping, label, total, through in db.execute(
                "SELECT merchant_id, media_id, target, grouping, label, total, through "
                "FROM series JOIN streams USING (stream_id)"
            )
        }


def pages_of(path: Path) -> int:
    return path.stat().st_size // PAGE


def wipe(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        # The first page identifies the program of the file.
        file.write(file.read(100) if page == 1 else b"")
        file.write(b"\xff" * (PAGE - 100 if page == 1 else PAGE))


@pytest.mark.unmeasured
def test_no_lost_page_lets_plays_be_counted_twice(prepared: Path, tmp_path: Path) -> None:
    """A counter continues at its value, or begins again at 0; it never has more than was played since."""
    whole = copy_of(prepared, tmp_path)
    with contextlib.closing(sqlite3.connect(whole)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = totals(whole)
    content = whole.read_bytes()
    falls = {}
    for page in range(1, pages_of(whole) + 1):
        path = tmp_path / f"{page}.db"
        path.write_bytes(content)
        wipe(path, page)
        assert start(path) == ""
        after = totals(path)
        assert after.keys() == before.keys()
        falls[page] = 0
        for series, (total, through) in after.items():
            had, upto = before[series]
            minutes = through - upto
            assert minutes > 0
            played = minutes * 10**6 * {"play_count": 2 if series[4] else 3, "device_count": 0}.get(series[2], 1)
            assert 0 <= total - had <= played or 0 <= total <= played, (page, series)
            falls[page] += total < had
    # All counters are in one page here. Losing another page costs none, not even that of the streams.
    assert sorted(falls.values())[:-1] == [0] * (len(falls) - 1)


def test_a_lost_page_costs_only_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of many pages each costs a small part, and the line says which; the damaged file is kept."""
    path = tmp_path / "state.db"
    state = open_state(path, later().now)
    with state.transaction() as db:
        for stream_id in range(1, 401):
            db.execute(
                "INSERT INTO streams (stream_id, merchant_id, media_id, target, grouping, start, through, seen, "
                "kept_from, answered) VALUES (?, 'm', ?, 'play_count', 'city', 1, 1000, 1000, 900, 1)",
                (stream_id, f"media {stream_id}"),
            )
            db.executemany(
                "INSERT INTO series (stream_id, place, label, total) VALUES (?, ?, ?, 5)",
                [(stream_id, place, f"a city of some size {place}") for place in range(25)],
            )
            db.executemany(
                "INSERT INTO slots (stream_id, slot, label, value) VALUES (?, ?, ?, 1)",
                [(stream_id, 990, f"a city of some size {place}") for place in range(25)],
            )
    state.close()
    content = path.read_bytes()
    before = totals(path)
    leaves = {table: leaves_of(path, table) for table in ("series", "slots", "streams")}
    for table in ("series", "slots", "streams"):
        for page in leaves[table][3::25]:
            path.write_bytes(content)
            wipe(path, page)
            open_state(path, later().now).close()
            aside = tmp_path / f"state.db.corrupt-{int(later().now())}"
            after = totals(path)
            kept = sum(after.get(series, (0, 0))[0] == total for series, (total, _) in before.items())
            assert kept == len(before) if table != "series" else len(before) * 0.98 < kept < len(before)
            with contextlib.closing(sqlite3.connect(path)) as db:
                revised = db.execute("SELECT count(*) FROM streams WHERE kept_from = 900").fetchone()[0]
            assert revised > 300
            assert aside.read_bytes()[PAGE * (page - 1) : PAGE * page] == b"\xff" * PAGE
            aside.unlink()
            [line] = [each for each in capsys.readouterr().out.splitlines() if each]
            assert "the state file is damaged" in line
            assert aside.name in line
            assert "merchant m, " in line


def leaves_of(path: Path, table: str) -> list[int]:
    """The pages of a table that contain only rows."""
    content = path.read_bytes()
    with contextlib.closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    leaves, inner = [], [root]
    while inner:
        at = (inner.pop() - 1) * PAGE
        kind, cells = content[at], int.from_bytes(content[at + 3 : at + 5], "big")
        if kind not in (2, 5):
            leaves.append(at // PAGE + 1)
            continue
        starts = [at + int.from_bytes(content[at + 12 + 2 * n : at + 14 + 2 * n], "big") for n in range(cells)]
        inner += [int.from_bytes(content[each : each + 4], "big") for each in (*starts, at + 8)]
    return sorted(leaves)


def test_a_stream_that_only_the_index_knows_keeps_its_counters(prepared: Path, tmp_path: Path) -> None:
    """A row that is lost without a trace is noticed at the start; the totals of its stream continue."""
    path = copy_of(prepared, tmp_path)
    before = totals(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        [(sql, root)] = db.execute("SELECT sql, rootpage FROM sqlite_schema WHERE name = 'streams'")
        # A table with the same rows, but without the index.
        db.execute("CREATE TABLE bare (stream_id INTEGER PRIMARY KEY, more)")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = 'bare'", (root,))
        db.execute("DELETE FROM sqlite_schema WHERE tbl_name = 'streams'")
        db.execute("PRAGMA schema_version = 1000")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        [(stream_id,)] = db.execute("SELECT min(stream_id) FROM bare")
        db.execute("DELETE FROM bare WHERE stream_id = ?", (stream_id,))
        db.execute("PRAGMA writable_schema = ON")
        db.execute(
            "UPDATE sqlite_schema SET name = 'streams', tbl_name = 'streams', sql = ? WHERE name = 'bare'", (sql,)
        )
        db.execute("INSERT INTO sqlite_schema VALUES ('index', 'sqlite_autoindex_streams_1', 'streams', 4, NULL)")
        db.execute("PRAGMA schema_version = 1001")
    assert len(totals(path)) < len(before)
    assert start(path) == ""
    after = totals(path)
    assert after.keys() == before.keys()
    assert [series for series, (total, _) in after.items() if total < before[series][0]] == []


def test_requests_wait_after_damage(prepared: Path, tmp_path: Path) -> None:
    """The times of the last requests are unknown then: none leaves in the first minute, also after one more restart."""
    path = copy_of(prepared, tmp_path)
    wipe(path, pages_of(path))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 0")
    clock = later()
    for pause in (0, 30):
        clock.advance(pause)
        state = open_state(path, clock.now, clock.monotonic)
        limiter = RequestBudget(state, "m", 45, clock)
        assert limiter.wait() == pytest.approx(WINDOW + RESTART_MARGIN - pause)
        state.close()
    clock.advance(WINDOW + RESTART_MARGIN)
    assert limiter.wait() <= 0


def test_damaged_plays_of_the_detector_are_fetched_again(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their bytes have a checksum, as SQLite cannot check them; the line gives the number of media."""
    path = copy_of(prepared, tmp_path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for table, column in (("tracks", "recent"), ("track_days", "steps")):
            media_id = MEDIA[0] if table == "tracks" else MEDIA[1]
            [(blob,)] = db.execute(
                f"SELECT {column} FROM {table} WHERE merchant_id = 'm' AND media_id = ?", (media_id,)
            )
            db.execute(
                f"UPDATE {table} SET {column} = ? WHERE merchant_id = 'm' AND media_id = ?",
                (blob[:100] + b"\x7f\x7f" + blob[102:], media_id),
            )
        db.execute("UPDATE tracks SET past_known = 1")
    clock = later()
    with polling(path, clock) as (_, built):
        watch = built.parts["m"].monitor
        assert MEDIA[0] not in watch.hours()
        assert MEDIA[1] in watch.hours()
        wanted = set()
        while (history := watch.warmup.next(clock.now(), minute_of(clock.now()), ())) is not None:
            wanted.add(history.media_id)
            watch.warmup.failed(history, clock.now())
        assert wanted == {MEDIA[0], MEDIA[1]}
    [line] = [each for each in capsys.readouterr().out.splitlines() if "damaged in the state file" in each]
    assert "media=2" in line


# ---- at random ----


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 3, 30, 300])):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def flip_the_header(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 2, 5])):
        content[chance.randrange(100)] = chance.randrange(256)
    path.write_bytes(content)


def flip_the_schema(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    page = chance.choice(schema_pages())
    for _ in range(chance.choice([1, 3, 20])):
        content[(page - 1) * PAGE + chance.randrange(100, PAGE)] = chance.randrange(256)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.choice([0, 1, 71, 72, 100, PAGE, chance.randrange(len(content))])])


def wipe_pages(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(content) // PAGE) * PAGE
        content[at : at + PAGE] = chance.choice([bytes(PAGE), b"\xff" * PAGE, chance.randbytes(PAGE)])
    path.write_bytes(content)


def damage_the_wal(path: Path, chance: random.Random) -> None:
    wal = path.with_name(path.name + "-wal")
    if chance.random() < 0.3:
        wal.write_bytes(chance.randbytes(50_000))
    else:
        chance.choice([flip, truncate])(wal, chance)


def damage_the_shm(path: Path, chance: random.Random) -> None:
    path.with_name(path.name + "-shm").write_bytes(chance.randbytes(32768))


VALUES = ("'text'", "NULL", "-1", "-9223372036854775808", "9223372036854775807", "1e300", "9e999", "x''", "x'c3ff'",
          "CAST(x'ff' AS TEXT)", "zeroblob(1000)")  # fmt: skip


def write_wrong_cells(path: Path, chance: random.Random) -> None:
    """Write cells of wrong types, as another program could."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = replace(replace(sql, ' STRICT', ''), ' NOT NULL', '')")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, ')\n, WITHOUT', ')\nWITHOUT')")
        before = db.execute("PRAGMA schema_version").fetchone()[0]
        db.execute(f"PRAGMA schema_version = {before + 1}")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for _ in range(chance.choice([1, 2, 10])):
            table = chance.choice(tables)
            column = chance.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})")])
            value, step = chance.choice(VALUES), chance.choice([1, 3, 10])
            with contextlib.suppress(sqlite3.IntegrityError):
                db.execute(f"UPDATE OR IGNORE {table} SET {column} = {value} WHERE abs(random()) % {step} = 0")
        db.execute("PRAGMA writable_schema = ON")
        for kind, name, sql in schema():
            db.execute("UPDATE sqlite_schema SET sql = ? WHERE type = ? AND name = ?", (sql, kind, name))
        db.execute(f"PRAGMA schema_version = {before + 2}")


def schema() -> list[tuple[str, str, str | None]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(empty_file())
        return db.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()


def change_the_tables(path: Path, chance: random.Random) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for _ in range(chance.choice([1, 1, 3])):
            table = chance.choice(tables)
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            with contextlib.suppress(sqlite3.OperationalError):
                db.execute(
                    chance.choice(
                        [
                            f"DROP TABLE {table}",
                            f"ALTER TABLE {table} DROP COLUMN {chance.choice(columns or [''])}",
                            f"ALTER TABLE {table} RENAME TO other",
                            "DROP INDEX sends_by_merchant",
                            f"CREATE TABLE more_{chance.randrange(9)} (x)",
                            f"PRAGMA user_version = {chance.choice([-1, 0, 2, 99])}",
                        ]
                    )
                )


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    flip,
    flip_the_header,
    flip_the_schema,
    truncate,
    wipe_pages,
    damage_the_wal,
    damage_the_shm,
    write_wrong_cells,
    change_the_tables,
)


def start(path: Path) -> str:
    """The line with which the exporter ends, or "" if it starts and counts."""
    clock = later()
    try:
        with polling(path, clock) as (_, built):
            clock.advance(120)
            count(built, clock, 3)
            built.snapshot()
            for parts in built.parts.values():
                parts.monitor.judge()
                parts.monitor.hours()
    except StateError as error:
        return str(error)
    return ""


@pytest.mark.unmeasured
def test_any_damage_gives_a_working_exporter_or_one_line(
    prepared: Path, tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """For wrong bytes, pages, headers, tables and cells there is never a traceback."""
    lines = []
    for number in range(pytestconfig.getoption("damages")):
        path = copy_of(prepared, tmp_path)
        DAMAGES[number % len(DAMAGES)](path, random.Random(number))
        lines.append(start(path))
        for each in tmp_path.iterdir():
            each.unlink()
    assert [line for line in lines if "\n" in line or (line and not line.startswith(f"{tmp_path}/"))] == []
    assert lines.count("") > len(lines) * 0.7
    # Each log entry is a single line.
    assert [line for line in capsys.readouterr().out.splitlines() if not line[:4].isdecimal()] == []
