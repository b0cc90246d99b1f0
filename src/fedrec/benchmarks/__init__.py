"""How fast fedrec is on this machine: its own rounds, trainings, sums and evaluations. May import engines and below."""
