"""One recommender a file, its hyperparameters in the same class. Imports aggregation, data, kernels and errors only."""
