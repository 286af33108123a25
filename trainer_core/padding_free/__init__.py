"""Training without padding: samples laid end to end in rows, each attending to itself alone."""
