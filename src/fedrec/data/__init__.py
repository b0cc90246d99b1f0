"""Interactions, catalogs, cleaning, splits, partitions, data sets. Imports kernels, documents and errors only."""
