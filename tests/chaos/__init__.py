"""Faults on purpose: crash points, random kills, links that fail, hosts that are away."""
