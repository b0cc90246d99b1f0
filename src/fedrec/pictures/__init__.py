"""Pictures of what commands report, drawn by matplotlib: curves of a training, models beside each other, trials."""
