"""The groups of calls that a client has: one a file."""
