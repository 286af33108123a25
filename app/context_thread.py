"""A thread that goes on in the context of whoever started it."""

import contextvars
import threading


class ContextThread(threading.Thread):
    """Keeps the starter's context variables: its lines name the same job, its spans have the same parent."""

    def start(self) -> None:
        """Takes the context as it is now."""
        self._context = contextvars.copy_context()
        super().start()

    def run(self) -> None:
        self._context.run(super().run)
