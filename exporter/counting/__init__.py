"""The ledger: every play counted once."""
