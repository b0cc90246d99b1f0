"""How fast fedrec is on this machine: its rounds, trainings, sums and evaluations. Imports everything but commands."""
