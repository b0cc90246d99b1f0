"""The secure sum: client and server as pure state machines, frames in and out. Imports aggregation and errors only."""
