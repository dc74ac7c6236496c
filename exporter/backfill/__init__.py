"""`backfill`: the history of the counters as blocks for Prometheus."""
