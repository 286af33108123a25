"""What the whole installation is doing, in figures."""
