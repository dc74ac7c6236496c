"""The configuration: settings, their types, and the messages for mistakes in it."""
