"""Makes ranked lists and tables from scores. Imports data and kernels, no model and no engine."""
