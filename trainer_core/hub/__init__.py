"""Pushing of what the steps make to a model hub: where to, which files, with which card."""
