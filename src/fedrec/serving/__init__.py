"""Answers over HTTP: a finished run, its users' events, and who may ask. Imports runs and everything below them."""
