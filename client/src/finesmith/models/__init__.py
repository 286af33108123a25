"""What the service answers, as frozen dataclasses: one kind of thing a file."""
