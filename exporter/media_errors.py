"""The errors of the media files: which are new, which are resolved, and since when there are any."""

from collections.abc import Callable, Collection, Mapping

import structlog

from exporter.serving.health import media_files_problem
from exporter.views import ProblemView

log = structlog.get_logger("media")


class MediaErrors:
    """The errors of the newest reading of the media files. Logs each once, and when all of a merchant are resolved.

    Attributes:
        problem: The errors as a problem of the process; None without any. Replaced as a whole.
    """

    def __init__(self, report: Callable[[Mapping[str, Collection[str]]], None]) -> None:
        """There are none.

        Args:
            report: Called with the errors of each reading, by merchant.
        """
        self._report = report
        self._errors: Mapping[str, Collection[str]] = {}
        self.problem: ProblemView | None = None

    def take(self, errors: Mapping[str, tuple[str, ...]], now: float) -> None:
        """Take the errors of a reading, by merchant; now are Unix seconds."""
        for merchant_id, lines in errors.items():
            before = self._errors.get(merchant_id, ())
            for line in lines:
                if line not in before:
                    log.error("media file error", merchant=merchant_id, error=line)
            if before and not lines:
                log.info("resolved: media file errors", merchant=merchant_id)
        self._errors = errors
        self._report(errors)
        since = now if self.problem is None else self.problem.since
        self.problem = media_files_problem(errors, since)
