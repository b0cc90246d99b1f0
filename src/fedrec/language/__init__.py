"""Models of language in folders of this machine: encoders of texts, and scorers of them. No code of a folder is run."""
