"""The HTTP server, shared by the exporter and the simulated API. Only this package knows the library behind it."""
