"""Durable files and the ledger of a run. Imports errors only."""
