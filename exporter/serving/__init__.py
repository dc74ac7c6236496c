"""What the exporter serves over HTTP: metrics, status, page."""
