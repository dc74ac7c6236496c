"""The Grafana dashboards, made by code. Pure but for `__main__` and `render`; the exporter imports nothing of it."""
