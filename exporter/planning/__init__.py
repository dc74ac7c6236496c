"""Which streams to request next, and what the budget can do."""
