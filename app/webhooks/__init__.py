"""Webhooks: what happens to jobs, told to the receivers that their owners name."""
