"""Networks, trained by a step of the coordinator a round along sums of gradients; torch is imported nowhere else."""
