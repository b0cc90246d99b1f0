"""Whole runs: trained, opened when finished, asked for lists and ratings, compared, verified. Imports engines and
network."""
