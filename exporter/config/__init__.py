"""The configuration: settings, their types, loading, and error lines."""
