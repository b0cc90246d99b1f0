"""The coordinator's side of nodes that it reaches over a network. Imports node and below, and no engine."""
