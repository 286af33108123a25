"""Secrets at rest: their encryption, and the named ones of each project."""
