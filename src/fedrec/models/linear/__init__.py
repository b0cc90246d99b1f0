"""Models in closed form from one to a few sums: counts, item-item weights, spectral filters."""
