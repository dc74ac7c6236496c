from exporter.api.request_log import KEPT, Exchange, RequestLog


def good(number: int) -> Exchange:
    return Exchange(float(number), "acme", "aggregations", "200", 0.1, asked=f"stream {number}", media_id="m1")


def bad(number: int, media_id: str = "m1") -> Exchange:
    return Exchange(float(number), "acme", "aggregations", "500", 0.1, media_id=media_id, error=f"error {number}")


def test_the_newest_come_first() -> None:
    """The list begins with the newest request; a failure among the newest is there once."""
    log = RequestLog()
    for exchange in (good(1), bad(2), good(3)):
        log.note(exchange)
    assert log.view().newest == (good(3), bad(2), good(1))


def test_failures_are_kept_longer() -> None:
    """Successful requests replace successful ones, but no failure; the number of both is limited."""
    log = RequestLog()
    for number in range(KEPT + 5):
        log.note(bad(number))
    for number in range(1000, 1000 + 2 * KEPT):
        log.note(good(number))
    newest = log.view().newest
    assert newest[:KEPT] == tuple(good(number) for number in range(1000 + 2 * KEPT - 1, 1000 + KEPT - 1, -1))
    assert newest[KEPT:] == tuple(bad(number) for number in range(KEPT + 4, 4, -1))


def test_each_media_keeps_its_last_failure() -> None:
    """Any number of failures of others may follow; a failure without a media belongs to none."""
    log = RequestLog()
    for exchange in (bad(1, "m1"), bad(2, "m2"), bad(3, "m2"), bad(4, ""), good(5)):
        log.note(exchange)
    for number in range(100, 100 + 2 * KEPT):
        log.note(bad(number, "m3"))
    of_media = log.view().of_media
    assert {media_id: each.error for (_, media_id), each in of_media.items()} == {
        "m1": "error 1",
        "m2": "error 3",
        "m3": f"error {99 + 2 * KEPT}",
    }


def test_a_view_does_not_change() -> None:
    """A view that a reader has stays the same, whatever comes later."""
    log = RequestLog()
    log.note(bad(1))
    before = log.view()
    log.note(bad(2))
    assert (before.newest, before.of_media["acme", "m1"]) == ((bad(1),), bad(1))


def counted(log: RequestLog, merchant_id: str = "acme") -> dict[str, dict[str, int]]:
    return {each.endpoint: dict(each.requests) for each in log.counted(merchant_id)}


def test_requests_are_counted_from_0() -> None:
    """Each known code of each endpoint is 0 before the first such response, so that `increase()` sees it; others begin
    with their first.
    """
    log = RequestLog()
    log.expect(["acme", "other"])
    codes = ("200", "400", "401", "403", "404", "429", "500", "502", "503", "504", "error")
    none = {endpoint: dict.fromkeys(codes, 0) for endpoint in ("aggregations", "auth-token", "live_events", "medias")}
    assert (counted(log), counted(log, "other")) == (none, none)
    before = log.counted("acme")
    for exchange in (good(1), bad(2), good(3), Exchange(4.0, "acme", "aggregations", "418", 0.1)):
        log.note(exchange)
    assert counted(log) == {**none, "aggregations": {**none["aggregations"], "200": 2, "500": 1, "418": 1}}
    assert counted(log, "other") == none
    # What a reader has stays as it is, and what has not changed is the same object.
    assert {each.endpoint: dict(each.requests) for each in before} == none
    assert [old is new for old, new in zip(before, log.counted("acme"), strict=True)] == [False, True, True, True]


def test_requests_of_a_removed_merchant_are_not_counted() -> None:
    """Its counters go with it, and a late response brings none back. Those of the others go on."""
    log = RequestLog()
    log.expect(["acme", "other"])
    log.note(good(1))
    log.expect(["acme"])
    log.note(Exchange(2.0, "other", "aggregations", "200", 0.1))
    assert counted(log)["aggregations"]["200"] == 1
    assert log.counted("other") == ()
    log.expect(["other"])
    assert log.counted("acme") == ()
    assert counted(log, "other")["aggregations"]["200"] == 0
