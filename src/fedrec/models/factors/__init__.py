"""Matrix factorisation from sums: federated averaging, and alternating least squares."""
