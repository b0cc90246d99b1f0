"""Nodes elsewhere, as the coordinator sees them over any post. Imports node and below, and no engine."""
