"""The receiver of docs/webhooks.md understands what is sent."""

import queue
import re
import threading
import time
from pathlib import Path
from typing import Any

from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector
from app.webhooks.postman import Postman
from app.webhooks.schedule import DELAYS_SECONDS
from app.webhooks.signing import SigningSecrets, make_secret, sign
from app.webhooks.views import EVENT_TYPES, ClaimedMessage

PAGE = (Path(__file__).parents[4] / "docs" / "webhooks.md").read_text()


def run_page() -> dict[str, Any]:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    return names


def test_the_example_receives_a_message_once_and_refuses_a_forged_one() -> None:
    secret, handled = make_secret(), queue.Queue[tuple[str, object]]()
    server = run_page()["build_server"](secret, 0, lambda type_, data: handled.put((type_, data)))
    server.RequestHandlerClass.log_message = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    allowed = AllowedHosts.parse(["127.0.0.1"])
    postman = Postman(allowed, connector=Connector(allowed))

    def send(signed_with: SigningSecrets) -> int:
        message = ClaimedMessage(
            id="msg-1",
            webhook_id="webhook-1",
            owner="ann",
            url=f"http://127.0.0.1:{server.server_port}/",
            payload='{"type": "webhook.test", "timestamp": "…", "data": {"id": "ü"}}',
            tries=1,
            claimed_until=0.0,
            now=time.time(),
            secrets=signed_with,
        )
        return postman.send(message).status

    try:
        assert send(SigningSecrets(make_secret())) == 401
        assert send(SigningSecrets(secret)) == 204
        # After a rotation the old secret still verifies, and the same id counts once.
        assert send(SigningSecrets(secret).rotate(now=time.time())) == 204
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert handled.get(timeout=10) == ("webhook.test", {"id": "ü"})
    assert handled.empty()


def test_the_example_refuses_what_is_old_or_not_whole() -> None:
    is_genuine, secret, now = run_page()["is_genuine"], make_secret(), int(time.time())

    def headers(timestamp: object, **others: str) -> dict[str, str]:
        signature = sign(secret, "msg-1", timestamp=timestamp, body="{}")  # type: ignore[arg-type]
        given = {"webhook-id": "msg-1", "webhook-timestamp": str(timestamp), "webhook-signature": signature}
        return {**given, **others}

    assert is_genuine(secret, headers(now), b"{}")
    for bad, body in (
        (headers(now - 301), b"{}"),
        (headers(now + 301), b"{}"),
        (headers("soon"), b"{}"),
        (headers(now), b"{} "),
        (headers(now, **{"webhook-id": "msg-2"}), b"{}"),
        (headers(now, **{"webhook-signature": ""}), b"{}"),
        (headers(now, **{"webhook-signature": "v1,"}), b"{}"),
        ({}, b"{}"),
    ):
        assert not is_genuine(secret, bad, body)


def test_the_page_names_each_event_and_all_delays() -> None:
    assert [type_ for type_ in EVENT_TYPES if f"`{type_}`" not in PAGE] == []
    words = [f"{delay:.0f} s" if delay < 60 else f"{delay / 60:.0f} min" for delay in DELAYS_SECONDS[:3]]
    words += [f"{delay / 3600:.0f} h" for delay in DELAYS_SECONDS[3:]]
    assert f"after {', '.join(words[:-1])} and {words[-1]}" in PAGE.replace("\n  ", " ")
