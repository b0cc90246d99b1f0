"""Recommenders that are networks, trained by sums of gradients or of what clients learned.

`autoencoder` has a round of its own, whose bits depend on each client alone. The others are PyTorch modules: a class of
hyperparameters (`network.py` and what derives from it) loads without torch; the modules themselves, batches and
training need it, and are loaded when a training or a score asks for them. Torch is imported nowhere else, and comes
with the extra `torch`.
"""
