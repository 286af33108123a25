"""One attempt at a job: what it is given, what it writes beside its outputs, and how its end is told."""
