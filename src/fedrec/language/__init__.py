"""Models of language in folders of this machine: encoders of texts, and scorers of texts; downloads and runs no code."""
