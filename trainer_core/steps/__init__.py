"""The four steps of a job; each module imports what it needs and nothing is imported from here."""
