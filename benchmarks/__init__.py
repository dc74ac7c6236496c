"""What the exporter costs in time and memory: `python -m benchmarks`, or `make bench`."""
