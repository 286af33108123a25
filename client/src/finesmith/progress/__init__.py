"""How `wait` shows a job's progress: a bar on a terminal, lines elsewhere."""
