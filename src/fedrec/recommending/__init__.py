"""From scores to ranked lists and tables; imports data and kernels, no model and no engine."""
