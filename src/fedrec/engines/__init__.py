"""Nodes in this process: plainly, as parties of a secure aggregation, on a virtual clock. Imports node and below."""
