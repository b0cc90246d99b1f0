"""What is summed, what happens before, and the bytes of a sum. Imports data, kernels and errors only."""
