from exporter.faults import FaultEvent, Faults

MINUTE = 60.0


def events(faults: Faults, failing: dict[int, str], minutes: int) -> list[FaultEvent]:
    """What is to be logged in rounds a minute apart; those in `failing` report this message."""
    told: list[FaultEvent] = []
    for minute in range(minutes):
        now = minute * MINUTE
        if minute in failing:
            event = faults.report("down", failing[minute], now)
            told += [event] if event else []
        told += faults.settle(now)
    return told


def test_a_fault_is_told_when_it_begins_and_when_it_has_ended() -> None:
    """Five failing minutes make two lines; the end tells since when it went on, how often it came, and what it was."""
    assert events(Faults(), dict.fromkeys(range(1, 6), "no answer"), 20) == [
        FaultEvent("begin", "down", "no answer", since=60, count=1),
        FaultEvent("end", "down", "no answer", since=60, count=5),
    ]


def test_a_fault_that_goes_on_is_told_every_15_minutes() -> None:
    """In an hour of failures there are four lines, with the newest message and the count so far."""
    told = events(Faults(), {minute: f"failure {minute}" for minute in range(60)}, 60)
    assert told == [
        FaultEvent("begin", "down", "failure 0", since=0, count=1),
        FaultEvent("remind", "down", "failure 15", since=0, count=16),
        FaultEvent("remind", "down", "failure 30", since=0, count=31),
        FaultEvent("remind", "down", "failure 45", since=0, count=46),
    ]


def test_a_flapping_fault_is_one_fault() -> None:
    """An API that fails every other minute for ten minutes makes two lines, not ten."""
    told = events(Faults(), dict.fromkeys(range(0, 10, 2), "no answer"), 20)
    assert [(event.kind, event.count) for event in told] == [("begin", 1), ("end", 5)]


def test_the_end_waits_for_three_quiet_minutes() -> None:
    """Just under three minutes after the newest report nothing has ended; at three minutes it has, once."""
    faults = Faults()
    faults.report("down", "no answer", 100)
    assert faults.settle(279) == []
    assert [event.kind for event in faults.settle(280)] == ["end"]
    assert faults.settle(281) == []


def test_after_its_end_a_fault_begins_again() -> None:
    """A fault that comes back is a new one: told at once, counted from one."""
    faults = Faults()
    faults.report("down", "no answer", 0)
    faults.settle(300)
    assert faults.report("down", "again", 301) == FaultEvent("begin", "down", "again", since=301, count=1)


def test_faults_are_told_apart_by_their_key() -> None:
    """A second fault is told although another goes on, and each ends for itself."""
    faults = Faults()
    assert faults.report("down", "no answer", 0) is not None
    assert faults.report("refused", "401", 100) is not None
    assert [event.key for event in faults.settle(200)] == ["down"]
    assert [event.key for event in faults.settle(300)] == ["refused"]


def test_a_clock_set_back_silences_nothing() -> None:
    """After the clock went back an hour, a fault that goes on is told at once, one that has stopped ends."""
    faults = Faults()
    faults.report("goes on", "a", 7200)
    faults.report("stops", "b", 7200)
    event = faults.report("goes on", "a", 3600)
    assert event is not None
    assert event.kind == "remind"
    assert [ended.key for ended in faults.settle(3660)] == ["stops"]
