"""Pages for people: runs, lists and reasons, budgets, a federation, events; made here, without a script."""
