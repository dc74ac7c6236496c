"""The state file: one SQLite database."""
