"""Prometheus exporter for the Analytics API of the SmartSTREAM video platform."""

__version__ = "0.1.0"
