"""`check-config --online`: signs in, looks up the media, reads their plays, checks the time zone; prints tables."""

import contextlib
import sys
from collections.abc import Sequence

from tqdm import tqdm

from exporter import console, logs
from exporter.api.client import Client
from exporter.checking.findings import MerchantFinding, nothing_known
from exporter.checking.merchant import MerchantCheck, requests_of
from exporter.checking.shares import PLAN, Shares, no_share, open_shares
from exporter.checking.table import describe
from exporter.clock import ApiClock, Clock
from exporter.config.settings import Settings
from exporter.errors import StateError
from exporter.times import format_duration, round_duration


def run(settings: Settings, clock: Clock) -> int:
    """Check all merchants, and print what is known of them.

    Returns:
        How many things are refused or wrong.

    Raises:
        StateError: The time of a request could not be written; what is known is printed.
        KeyboardInterrupt: As anywhere, with a text; what is known is printed.
    """
    api_clock = ApiClock(clock, lambda _seconds, _now: None)
    # Both, as the bar and the tables are for the same reader.
    shows_bar = sys.stderr.isatty() and sys.stdout.isatty()
    logs.write_in(lambda: tqdm.external_write_mode(file=sys.stderr))
    with contextlib.ExitStack() as stack:
        shares = stack.enter_context(open_shares(settings, clock))
        founds, checks = [], []
        for merchant in settings.merchants:
            share = shares.by_merchant[merchant.id]
            if share is None:
                problem = no_share(settings.storage.path, merchant.requests_per_minute)
                founds.append(nothing_known(merchant, problem))
                continue
            client = Client(
                settings.api, merchant, share.budget,
                observe=lambda _exchange: None, clock=api_clock, on_date=api_clock.answered,
            )  # fmt: skip
            stack.callback(client.close)
            check = MerchantCheck(merchant, client, share.budget, api_clock, settings.api.timezone, _tell)
            founds.append(check.found)
            checks.append(check)
        _announce(settings, shares)
        try:
            _ask_all(checks, clock, shows_bar=shows_bar)
        except KeyboardInterrupt:
            _print(founds, settings, api_clock)
            raise KeyboardInterrupt("interrupted; the tables have what was known by then") from None
        except StateError:
            _print(founds, settings, api_clock)
            raise
    _print(founds, settings, api_clock)
    if shares.apart:
        _warn_of_start(settings)
    return sum(found.problems for found in founds)


def _ask_all(checks: Sequence[MerchantCheck], clock: Clock, *, shows_bar: bool) -> None:
    """Send all requests; the merchant whose budget allows it first is next."""
    total = sum(check.left for check in checks)
    with tqdm(total=total, desc="checking", unit="req", disable=not shows_bar) as bar:
        while waiting := [check for check in checks if check.left]:
            first = min(waiting, key=MerchantCheck.wait)
            seconds = first.wait()
            if seconds > 0:
                clock.sleep(seconds)
                continue
            first.ask()
            # A second look at the time zone adds a request.
            left = sum(check.left for check in checks)
            total = max(total, int(bar.n) + left)
            bar.total = total
            bar.update(total - left - bar.n)


def _announce(settings: Settings, shares: Shares) -> None:
    """Say how long it will take."""
    if shares.note:
        _tell(shares.note)
    checked = [(each, share) for each in settings.merchants if (share := shares.by_merchant[each.id]) is not None]
    requests = sum(requests_of(merchant) for merchant, _ in checked)
    seconds = max((share.seconds(requests_of(merchant)) for merchant, share in checked), default=0.0)
    limits = " and ".join(sorted({str(share.limit) for _, share in checked}))
    if checked:
        media = sum(len(merchant.media) for merchant, _ in checked)
        duration = format_duration(max(1.0, round_duration(seconds)))
        _tell(f"checking {media} media: {requests} requests, about {duration} at {limits} requests a minute")


def _warn_of_start(settings: Settings) -> None:
    """No exporter knows of these requests: one that starts at once may exceed the plan."""
    if any(requests_of(each) + each.requests_per_minute > PLAN for each in settings.merchants):
        _tell("start the exporter in a minute: it does not know of these requests, and may exceed the API's limit")


def _print(founds: Sequence[MerchantFinding], settings: Settings, clock: Clock) -> None:
    for found in founds:
        print(describe(found, settings.api.timezone, clock.now()), end="\n\n")


def _tell(text: str) -> None:
    """A line on standard error, above the bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        console.say(text)
