"""Attacks on one's own runs, which use what a run really releases and report what they reach. Imports runs."""
