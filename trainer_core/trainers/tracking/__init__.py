"""Trackers: where a training's metrics go besides the job's own events."""
