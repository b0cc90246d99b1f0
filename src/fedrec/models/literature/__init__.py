"""Federated recommenders as their papers have them."""
