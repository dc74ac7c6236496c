"""The Grafana dashboards as code. Only `__main__` has effects. The exporter does not import this package."""
