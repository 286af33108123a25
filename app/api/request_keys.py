"""API keys as requests need them: a key that was just checked costs no thread."""

import time

from app.keys.service import KeyService, Principal


class RequestKeys(KeyService):
    """Also answers out of the cache alone, which is safe in the event loop."""

    def find_cached(self, plaintext: str) -> Principal | None:
        """Who the key belongs to, if that was looked up less than 30 s ago; None: ask `authenticate` in a thread."""
        cached = self._cache.get(self._digest(plaintext))
        return cached.principal if cached is not None and time.monotonic() < cached.until else None
