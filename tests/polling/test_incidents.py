from exporter.polling.incidents import IncidentEvent, Incidents

MINUTE = 60.0


def events(incidents: Incidents, failing: dict[int, str], minutes: int) -> list[IncidentEvent]:
    """The log events of rounds a minute apart; rounds in `failing` report this message."""
    logged: list[IncidentEvent] = []
    for minute in range(minutes):
        now = minute * MINUTE
        if minute in failing:
            event = incidents.report("down", failing[minute], now)
            logged += [event] if event else []
        logged += incidents.settle(now)
    return logged


def test_an_incident_is_logged_when_it_begins_and_when_it_is_resolved() -> None:
    """Five failing minutes make two lines; the last has the start, the count and the error."""
    assert events(Incidents(), dict.fromkeys(range(1, 6), "no answer"), 20) == [
        IncidentEvent("begin", "down", "no answer", since=60, count=1),
        IncidentEvent("end", "down", "no answer", since=60, count=5),
    ]


def test_an_open_incident_is_logged_less_and_less_often() -> None:
    """A day of failures is nine lines: reminders come after 15 and 30 minutes, 1, 2, 4 and 8 hours, and then every 6
    hours, with the newest message and the count so far.
    """
    logged = events(Incidents(), {minute: f"failure {minute}" for minute in range(24 * 60)}, 24 * 60)
    reminders = [15, 30, 60, 120, 240, 480, 840, 1200]
    assert logged == [
        IncidentEvent("begin", "down", "failure 0", since=0, count=1),
        *(IncidentEvent("remind", "down", f"failure {at}", since=0, count=at + 1) for at in reminders),
    ]


def test_many_similar_incidents_share_one_reminder() -> None:
    """Each media has a line when its incident begins; one line is the reminder for all, and one shows that some are
    resolved.
    """
    incidents = Incidents()
    names = [f"media {number}" for number in range(90)]
    for at, name in enumerate(names):
        assert incidents.report("gone", "404", at, name=name) == IncidentEvent("begin", "gone", f"{name}: 404", at, 1)
    still_open = {("gone", name) for name in names}
    assert incidents.settle(899, still_open) == []
    many = "90 streams or media (media 0, media 1, media 2 and 87 more): 404"
    assert incidents.settle(900, still_open) == [IncidentEvent("remind", "gone", many, since=0, count=90)]
    two = "2 streams or media (media 0, media 1): 404"
    assert incidents.settle(1000, still_open - {("gone", "media 0"), ("gone", "media 1")}) == [
        IncidentEvent("end", "gone", two, since=0, count=2)
    ]
    assert incidents.settle(1800, {("gone", "media 7")}) == [
        IncidentEvent("end", "gone", "87 streams or media (media 2, media 3, media 4 and 84 more): 404", 2, 87),
        IncidentEvent("remind", "gone", "media 7: 404", since=7, count=1),
    ]


def test_a_day_of_90_failing_media_is_below_a_hundred_lines() -> None:
    """The limit holds also if they begin at different times and have few requests."""
    incidents = Incidents()
    lines = 0
    names = [f"media {number}" for number in range(90)]
    for minute in range(24 * 60):
        for name in names[minute % 30 :: 30]:
            lines += incidents.report("refused", "403", minute * MINUTE, name=name) is not None
        lines += len(incidents.settle(minute * MINUTE, {("refused", name) for name in names}))
    assert 90 < lines < 100


def test_a_flapping_error_is_one_incident() -> None:
    """An API that fails every other minute for ten minutes makes two lines, not ten."""
    logged = events(Incidents(), dict.fromkeys(range(0, 10, 2), "no answer"), 20)
    assert [(event.kind, event.count) for event in logged] == [("begin", 1), ("end", 5)]


def test_an_incident_is_resolved_after_three_quiet_minutes() -> None:
    """Just under three minutes after the newest report nothing is resolved; at three minutes the incident is, once."""
    incidents = Incidents()
    incidents.report("down", "no answer", 100)
    assert incidents.settle(279) == []
    assert [event.kind for event in incidents.settle(280)] == ["end"]
    assert incidents.settle(281) == []


def test_a_resolved_incident_can_begin_again() -> None:
    """An error that comes back is a new incident: it is logged at once, and its count starts at one."""
    incidents = Incidents()
    incidents.report("down", "no answer", 0)
    incidents.settle(300)
    assert incidents.report("down", "again", 301) == IncidentEvent("begin", "down", "again", since=301, count=1)


def test_incidents_differ_by_their_key() -> None:
    """A second incident is logged although another is open, and each is resolved on its own."""
    incidents = Incidents()
    assert incidents.report("down", "no answer", 0) is not None
    assert incidents.report("refused", "401", 100) is not None
    assert [event.key for event in incidents.settle(200)] == ["down"]
    assert [event.key for event in incidents.settle(300)] == ["refused"]


def test_a_clock_set_back_silences_nothing() -> None:
    """After the clock went back an hour, an open incident is logged at once, and one that has stopped is resolved."""
    incidents = Incidents()
    incidents.report("goes on", "a", 7200)
    incidents.report("stops", "b", 7200)
    incidents.report("goes on", "a", 3600)
    assert [(event.kind, event.key) for event in incidents.settle(3660)] == [("remind", "goes on"), ("end", "stops")]
