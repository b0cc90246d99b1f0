"""The secure sum: client and server as pure state machines, message in, messages out. Imports aggregation and errors only."""
