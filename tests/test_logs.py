import errno
import fcntl
import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from exporter import log_writer, logs
from exporter.log_writer import LogWriter
from tests.support.processes import PATIENCE

SECRET = 'pä"ss\\w ord'


def lines_of(stream: io.StringIO) -> list[str]:
    return text_of(stream).splitlines()


def text_of(stream: io.StringIO) -> str:
    """The output, once all of it is written."""
    assert logs.flush(PATIENCE)
    return stream.getvalue()


def start(level: str = "info", log_format: Any = "logfmt", secrets: tuple[str, ...] = ()) -> io.StringIO:
    stream = io.StringIO()
    logs.setup(level, log_format, stream, secrets=secrets)
    return stream


def without_others() -> None:
    """Remove pytest's own handlers: they keep texts that are too long for its report, or invalid in it."""
    logging.getLogger().handlers.clear()


def fail(text: str = "two\nlines") -> None:
    raise ValueError(text)


def test_a_line_is_time_level_message_and_fields() -> None:
    """A logfmt line begins with ts (UTC, milliseconds), level and msg; the fields come in the given order."""
    stream = start()
    structlog.get_logger("poll").info("asked for more", stream="m1/plays", minutes=3, ok=True, wait=None)
    [line] = lines_of(stream)
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=info "
        r'msg="asked for more" component=poll stream=m1/plays minutes=3 ok=true wait=',
        line,
    )


def test_json_lines_have_the_same_fields() -> None:
    """With `json` every line is an object with its keys in the same order."""
    stream = start(log_format="json")
    structlog.get_logger("poll").warning("late", minutes=3)
    [line] = lines_of(stream)
    fields = json.loads(line)
    assert list(fields) == ["ts", "level", "msg", "component", "minutes"]
    assert (fields["level"], fields["msg"], fields["component"], fields["minutes"]) == ("warn", "late", "poll", 3)


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_libraries_log_in_the_same_form(log_format: str) -> None:
    """A record of the standard library's logging is rendered like the program's own."""
    stream = start(log_format=log_format)
    logging.getLogger("library").critical("%d thread(s) still running", 2)
    [line] = lines_of(stream)
    assert "2 thread(s) still running" in line
    assert "library" in line
    assert "error" in line
    assert line.startswith("{" if log_format == "json" else "ts=")


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_the_level_is_a_threshold(level: str, shown: int) -> None:
    """An event below the level is not written, whoever logs it."""
    stream = start(level)
    for log in (structlog.get_logger("poll"), logging.getLogger("library")):
        log.debug("a")
        log.info("b")
        log.warning("c")
        log.error("d")
    assert len(lines_of(stream)) == 2 * shown


@pytest.mark.parametrize("name", ["apscheduler.jobstores", "urllib3.connectionpool"])
@pytest.mark.parametrize("level", ["debug", "error"])
def test_chatty_libraries_are_quiet(name: str, level: str) -> None:
    """The scheduler's line for each run and urllib3's for each connection are not written, even at debug."""
    stream = start(level)
    logging.getLogger(name).info("Running job")
    assert lines_of(stream) == []
    logging.getLogger(name).warning("Run time was missed")
    assert len(lines_of(stream)) == (1 if level == "debug" else 0)


def test_a_late_round_is_logged_once() -> None:
    """A skipped run is an event of the scheduler; our own listener logs it."""
    stream = start("debug")
    logging.getLogger("apscheduler.scheduler").warning("skipped: maximum number of running instances reached (1)")
    assert lines_of(stream) == []


@pytest.mark.parametrize("level", ["debug", "error"])
def test_invalid_requests_to_the_http_server_are_not_logged(level: str) -> None:
    """Otherwise any client could fill the log with the library's lines about invalid requests."""
    stream = start(level)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("asyncio").warning("socket.send() raised exception.")
    assert lines_of(stream) == []


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
@pytest.mark.parametrize("log", [structlog.get_logger("server"), logging.getLogger("library")])
def test_an_exception_is_one_line(log: Any, log_format: str) -> None:
    """An exception is logged by type, text and location, on the line of its event, without its traceback."""
    stream = start(log_format=log_format)
    try:
        fail()
    except ValueError:
        log.exception("a request failed")
    [line] = lines_of(stream)
    assert "ValueError: two\\nlines" in line
    assert "test_logs.py:" in line
    assert "Traceback" not in line


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_debug_shows_tracebacks(log_format: str) -> None:
    """At debug the traceback is there, still on the one line."""
    stream = start("debug", log_format)
    try:
        fail()
    except ValueError as error:
        structlog.get_logger("server").error("a request failed", exc_info=error)
    [line] = lines_of(stream)
    assert "Traceback (most recent call last)" in line


def test_exc_info_without_an_exception_is_no_error() -> None:
    """`exc_info=True` outside of a handler, and an exception that was never raised, are logged without a place."""
    stream = start()
    log = structlog.get_logger("server")
    log.error("nothing", exc_info=True)
    log.error("never raised", exc_info=ValueError("x"))
    first, second = lines_of(stream)
    assert first.endswith("msg=nothing component=server")
    assert second.endswith('component=server error="ValueError: x"')


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
@pytest.mark.parametrize("code", [0x0A, 0x0D, 0x1B, 0x00, 0x2028, 0x85, 0xD800], ids=hex)
def test_no_text_from_outside_breaks_a_line(code: int, log_format: str) -> None:
    """A control character, a line separator or half a surrogate pair neither ends the line nor reaches a terminal."""
    without_others()
    char = chr(code)
    stream = start(log_format=log_format)
    structlog.get_logger("poll").info("read", name=f"a{char}b")
    logging.getLogger("library").info("read a%sb", char)
    text = text_of(stream)
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
@pytest.mark.parametrize("level", ["info", "debug"])
def test_secrets_are_not_written(log_format: str, level: str) -> None:
    """A secret is replaced in messages, values, nested values, URLs, exceptions and library lines."""
    stream = start(level, log_format, ("sesame", SECRET, ""))
    log = structlog.get_logger("client")
    log.info(f"the password is {SECRET}", key="sesame", nested={"password": SECRET, "keys": ["sesame"]})
    logging.getLogger("library").info("GET /?key=p%C3%A4%22ss%5Cw%20ord&other=p%C3%A4%22ss%5Cw+ord")
    logging.getLogger("library").info("%r", {"password": SECRET})
    try:
        fail(f"{SECRET} was not accepted")
    except ValueError:
        log.exception("failed")
    text = text_of(stream)
    assert len(lines_of(stream)) == 4
    assert text.count("<secret>") >= 8
    assert "sesame" not in text
    assert "ss" not in text.replace("<secret>", "").replace("password", "").replace("class", "").replace("process", "")


def test_a_secret_that_begins_with_another_is_replaced_completely() -> None:
    """No part of the longer of two secrets is left."""
    stream = start(secrets=("abcdef", "abcdefghi"))
    structlog.get_logger("client").info("abcdefghi abcdef abcdefgh")
    assert 'msg="<secret> <secret> <secret>gh"' in text_of(stream)


def test_a_second_setup_replaces_the_first() -> None:
    """After two set-ups, each event is still one line, in the newer form."""
    first = start()
    second = start(log_format="json")
    structlog.get_logger("poll").info("once")
    assert lines_of(first) == []
    assert json.loads(text_of(second))["msg"] == "once"


def test_other_handlers_are_unchanged() -> None:
    """The set-up removes only its own handlers."""
    mine = logging.NullHandler()
    logging.getLogger().addHandler(mine)
    start()
    assert mine in logging.getLogger().handlers


def test_the_log_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a stream the log is on standard error, so that standard output is free for the commands."""
    logs.setup()
    structlog.get_logger("poll").info("hello")
    logs.flush()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(" level=info msg=hello component=poll\n")


def test_warnings_are_lines_too() -> None:
    """A Python warning is one line of the log."""
    stream = start()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = logging._showwarning  # type: ignore[attr-defined]  # pytest has put its own there
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    [line] = lines_of(stream)
    assert "DeprecationWarning: deprecated" in line
    assert "component=py.warnings" in line


def test_an_unwritable_log_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A closed stream raises nothing where something is logged, and the unredacted record is not written elsewhere."""
    stream = start(secrets=("sesame",))
    stream.close()
    structlog.get_logger("poll").info("hello", key="sesame")
    assert logs.flush(PATIENCE)
    assert capsys.readouterr() == ("", "")
    assert logs.problem() == "cannot write the log: it is closed; check the log's destination"


def test_an_unknown_level_is_an_error() -> None:
    """A level that is not in LEVELS raises at once, and nothing is changed."""
    before = list(logging.getLogger().handlers)
    with pytest.raises(KeyError):
        logs.setup("loud", stream=sys.stderr)
    assert logging.getLogger().handlers == before


def test_an_uncaught_exception_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that ends a thread, or the process, is logged in one line with its secrets hidden."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    stream = io.StringIO()
    logs.setup(stream=stream, secrets=["hunter2"])
    logs.log_uncaught()

    def fails() -> None:
        raise ValueError("no room for hunter2")

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    error = ValueError("hunter2 again")
    sys.excepthook(ValueError, error, None)

    class Ends:
        def __del__(self) -> None:
            fails()

    del [Ends()][0]
    lines = lines_of(stream)
    assert len(lines) == 3
    assert all("ValueError: " in line and "<secret>" in line and "hunter2" not in line for line in lines)


# ---- a log that blocks or fails ----


@dataclass
class Pipe:
    """A pipe that holds 4 KiB.

    Attributes:
        reader: The reading end.
        writer: The writing end.
    """

    reader: io.TextIOWrapper
    writer: io.TextIOWrapper


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that takes only ASCII."""
    read_end, write_end = os.pipe()
    reader, writer = os.fdopen(read_end, encoding="ascii"), os.fdopen(write_end, "w", encoding="ascii")
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield Pipe(reader, writer)
    # The waiting lines are written before both ends are closed.
    thread = threading.Thread(target=reader.read)
    thread.start()
    assert logs.flush(PATIENCE)
    logs.setup(stream=io.StringIO())
    writer.close()
    thread.join()
    reader.close()


def fill(log: Any, first: int, last: int) -> None:
    """Log numbered lines of a kilobyte each."""
    for number in range(first, last):
        log.info(f"line {number}", text="x" * 1000)


def test_a_hanging_reader_blocks_no_thread(pipe: Pipe) -> None:
    """While the log is not read, lines are queued up to a limit, others are dropped and counted; a
    notice reports them.
    """
    without_others()
    logs.setup(stream=pipe.writer)
    before = logs.dropped()
    log = structlog.get_logger("poll")
    fill(log, 0, 3000)
    lost = logs.dropped() - before
    assert 1500 < lost < 2500
    assert not logs.flush(0.01)
    numbers, notice = [], ""
    while not notice:
        line = pipe.reader.readline()
        if found := re.search('msg="line ([0-9]+)"', line):
            numbers.append(int(found[1]))
        else:
            notice = line
    assert f'level=warn msg="dropped {lost} log lines that could not be written" component=logs' in notice
    assert numbers == list(range(3000 - lost))
    log.info("on")
    assert "msg=on" in pipe.reader.readline()
    assert logs.flush(PATIENCE)
    assert logs.problem() is None
    assert logs.dropped() - before == lost


def test_a_blocked_log_is_a_problem() -> None:
    """A write that takes longer than ten seconds is a problem until it ends."""
    now = [100.0]
    go_on = threading.Event()

    class Hung(io.StringIO):
        def write(self, text: str) -> int:
            began.set()
            go_on.wait(PATIENCE)
            return super().write(text)

    began = threading.Event()
    writer = LogWriter(Hung(), str, clock=lambda: now[0])
    writer.put("a")
    assert began.wait(PATIENCE)
    now[0] += 9
    assert writer.problem() is None
    now[0] += 61
    assert writer.problem() == "the log has been blocked for 70 s; check the process that reads it"
    go_on.set()
    assert writer.flush(PATIENCE)
    assert writer.problem() is None


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EBADF, errno.EIO], ids=errno.errorcode.get)
def test_a_line_that_cannot_be_written_is_counted(number: int) -> None:
    """A failed write raises nowhere and is not retried; once the log works again, a notice reports the lost lines."""
    fails = [True]
    tries: list[str] = []

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            tries.append(text)
            if fails[0]:
                raise OSError(number, os.strerror(number))
            return super().write(text)

    stream = Broken()
    writer = LogWriter(stream, "{} lost".format)
    for text in "ab":
        writer.put(text)
        assert writer.flush(PATIENCE)
    assert writer.dropped == 2
    assert writer.problem() == f"cannot write the log: {os.strerror(number)}; check the log's destination"
    assert [text for text in tries if "lost" not in text] == ["a\n", "b\n"]
    fails[0] = False
    writer.put("c")
    assert writer.flush(PATIENCE)
    assert stream.getvalue() == "2 lost\nc\n"
    assert writer.dropped == 2
    assert writer.problem() is None


def test_dropped_lines_are_reported_without_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that works again reports the dropped lines, even if nothing else is logged."""
    monkeypatch.setattr(log_writer, "RETRY_EVERY", 0.05)
    failures = [OSError(errno.ENOSPC, "full")] * 3

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            if failures:
                raise failures.pop()
            reported.set()
            return super().write(text)

    reported = threading.Event()
    stream = Full()
    writer = LogWriter(stream, "{} lost".format)
    writer.put("a")
    assert reported.wait(PATIENCE)
    assert writer.flush(PATIENCE)
    assert stream.getvalue() == "1 lost\n"


def test_a_partly_written_line_does_not_break_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a disk accepted half of a line, the next line begins on a line of its own."""
    written = bytearray()
    takes = [3, 0, 100, 100]

    def write(_descriptor: int, data: memoryview) -> int:
        size = takes.pop(0)
        if not size:
            raise OSError(errno.ENOSPC, "full")
        written.extend(data[:size])
        return min(size, len(data))

    class Stream(io.StringIO):
        encoding = "utf-8"

        def fileno(self) -> int:
            return -1

    monkeypatch.setattr(os, "write", write)
    writer = LogWriter(Stream(), "{} lost".format)
    writer.put("abcdef")
    assert writer.flush(PATIENCE)
    writer.put("next")
    assert writer.flush(PATIENCE)
    assert written == b"abc\n1 lost\nnext\n"


def test_unsupported_characters_are_escaped(pipe: Pipe) -> None:
    """A log in ASCII shows the escapes of a name in Japanese."""
    without_others()
    logs.setup(stream=pipe.writer)
    structlog.get_logger("poll").info("read", name="朝")
    assert "name=\\u671d" in pipe.reader.readline()


def test_a_value_that_cannot_be_rendered_drops_its_line() -> None:
    """A value that raises when it is rendered is counted as a dropped line, and a notice reports it."""

    class Odd:
        def __str__(self) -> str:
            raise ValueError

        __repr__ = __str__

    without_others()
    stream = start()
    before = logs.dropped()
    log = structlog.get_logger("poll")
    log.info("a", value=Odd())
    log.info("b")
    assert [line.split("msg=")[1][:10] for line in lines_of(stream)] == ['"dropped 1', "b componen"]
    assert logs.dropped() == before + 1


def test_logging_during_logging_is_a_line_too() -> None:
    """A value that logs when it is rendered, and a garbage collection that does, block nothing."""

    class Chatty:
        def __str__(self) -> str:
            log.info("inner")
            return "text"

        __repr__ = __str__

    stream = start()
    log = structlog.get_logger("poll")
    log.info("outer", value=Chatty())
    assert len(lines_of(stream)) >= 2


def test_lines_are_rendered_when_they_are_logged(pipe: Pipe) -> None:
    """A value that changes while its line waits is shown with its old value."""
    without_others()
    logs.setup(stream=pipe.writer)
    log = structlog.get_logger("poll")
    fill(log, 0, 10)
    value = ["before"]
    log.info("value", value=value)
    value[0] = "after"
    line = next(line for line in pipe.reader if "msg=value" in line)
    assert "before" in line
