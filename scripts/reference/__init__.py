"""Generates the reference documents from the code: `make docs`."""
