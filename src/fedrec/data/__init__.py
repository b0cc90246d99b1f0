"""Interactions, catalogs, readers, cleaning, splits and data sets. Imports kernels, documents and errors only."""
