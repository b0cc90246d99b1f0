"""Secure aggregation: client and server as pure state machines. Imports aggregation and errors only."""
