"""How many requests the simulated API had at most in one window."""

from exporter.simulator.journal import Journal


def busiest(journal: Journal, merchant_id: str, window: float = 60.0) -> int:
    """The maximum number of requests of a merchant in any window (seconds, end exclusive)."""
    arrivals = sorted(request.at for request in journal.newest() if request.merchant_id == merchant_id)
    most = first = 0
    for last, arrival in enumerate(arrivals):
        while arrivals[first] <= arrival - window:
            first += 1
        most = max(most, last - first + 1)
    return most
