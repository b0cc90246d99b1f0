"""Durable files, the ledger of a run as a Merkle log, signatures, receipts. Imports errors only."""
