"""Differential privacy: accounting, noise, the owner's budget, and a description of the promise in sentences."""
