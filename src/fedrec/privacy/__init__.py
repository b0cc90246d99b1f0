"""Differential privacy: what it costs, noise, the owner's budget, and the promise in words."""
