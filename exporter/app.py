"""What the web server shows of the running process: connects its parts with the routes."""

from collections.abc import Callable
from importlib.metadata import metadata

from exporter import __version__
from exporter.assembly import Polling
from exporter.config.load import dump
from exporter.httpd.messages import Handler
from exporter.polling.scheduler import Scheduler
from exporter.process_health import ProcessHealth
from exporter.reload import Reloader
from exporter.serving import page, status
from exporter.serving.exposition import Exposition
from exporter.serving.instruments import Instruments
from exporter.serving.routes import create_app
from exporter.serving.schema import Status
from exporter.serving.status import Limits


def build_app(
    polling: Polling,
    health: ProcessHealth,
    schedule: Scheduler,
    telemetry: Instruments,
    reloader: Reloader,
    telemetry_path: str,
) -> Handler:
    """What the web server shows of the parts of the process."""
    metrics = Exposition(
        telemetry.registry, health.snapshot, lambda: polling.settings.poll.max_staleness, polling.clock.now
    )

    def limits() -> Limits:
        settings = polling.settings
        return Limits(str(settings.api.timezone), settings.poll.max_staleness, settings.poll.max_lag)

    def built(merchant_id: str) -> Status | None:
        part = status.only(health.snapshot(), merchant_id)
        if part is None:
            return None
        hours, days = polling.hours(part.merchants), polling.days(part.merchants)
        return status.build(part, hours, days, polling.requests.view(), polling.clock.now(), __version__, limits())

    def rendered(render: Callable[[Status], str]) -> Callable[[str], str | None]:
        def of_merchant(merchant_id: str) -> str | None:
            found = built(merchant_id)
            return None if found is None else render(found)

        return of_merchant

    def media_page(merchant_id: str, media_id: str) -> str | None:
        found = built(merchant_id) if merchant_id else None
        return None if found is None else page.media_page(found, media_id, telemetry_path)

    def ready() -> str | None:
        waiting = [merchant_id for merchant_id, poller in polling.pollers.items() if poller.link.up is None]
        return f"waiting for the first API response for {', '.join(waiting)}" if waiting else None

    return create_app(
        metrics.render,
        healthy=schedule.problem,
        ready=ready,
        page=rendered(lambda found: page.page(found, telemetry_path)),
        media_page=media_page,
        status_json=rendered(status.as_json),
        config_text=lambda: dump(polling.settings),
        # The README of the installed release.
        docs=lambda: metadata("smartstream-exporter")["Description"],
        reload=reloader.reload,
        telemetry_path=telemetry_path,
    )
