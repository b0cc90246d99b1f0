"""Numba loops on plain arrays. Imports numpy and numba only; every kernel has one explicit signature and no fastmath."""
