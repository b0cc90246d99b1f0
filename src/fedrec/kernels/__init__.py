"""Numba loops on plain arrays. Imports numpy and numba only; each kernel has one explicit signature, no fastmath."""
