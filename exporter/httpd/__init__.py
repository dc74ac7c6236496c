"""The HTTP server, shared by the exporter and the simulated API."""
