"""Interactions, catalogs, readers, cleaning, splits and data sets. Imports kernels and errors only."""
