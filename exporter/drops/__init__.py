"""The drop detector."""
