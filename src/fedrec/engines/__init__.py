"""Nodes in this process: plainly, as parties of a secure sum, on a virtual clock. Imports node and below."""
