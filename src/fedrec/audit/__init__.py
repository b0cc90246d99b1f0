"""Attacks on our own runs: what is really released is attacked, and the report says what came of it. Imports runs."""
