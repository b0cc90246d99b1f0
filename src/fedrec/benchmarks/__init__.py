"""Measures how fast fedrec is on this machine: rounds, trainings, sums and evaluations. Imports everything but
commands."""
