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
