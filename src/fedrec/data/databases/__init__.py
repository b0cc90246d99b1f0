"""Interactions from SQLite and PostgreSQL."""
