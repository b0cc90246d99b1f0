"""Estimators, the face in Python: fit, recommend, save; tuning, comparing, checking. Imports audit and deploy."""
