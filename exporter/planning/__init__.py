"""Which streams to ask for next, and what the budget can do."""
