"""The polling loop."""
