"""Signatures are those of Standard Webhooks."""

import base64
import hmac
from hashlib import sha256

from app.webhooks.signing import ROTATION_SECONDS, SigningSecrets, make_secret, sign


def test_the_standards_own_example_comes_out() -> None:
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body='{"test": 2432232314}',
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_signature_covers_id_time_and_the_bytes_of_the_body() -> None:
    secret, body = make_secret(), '{"name": "Ünïcode ✓"}'
    key = base64.b64decode(secret.partition("_")[2])
    digest = hmac.new(key, b"msg-1.1700000000." + body.encode("utf-8"), sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    assert sign(secret, "msg-1", timestamp=1700000000, body=body) == expected
    others = [
        sign(secret, "msg-2", timestamp=1700000000, body=body),
        sign(secret, "msg-1", timestamp=1700000001, body=body),
        sign(secret, "msg-1", timestamp=1700000000, body=body + " "),
        sign(make_secret(), "msg-1", timestamp=1700000000, body=body),
    ]
    assert expected not in others


def test_secrets_are_32_random_bytes() -> None:
    made = {make_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(base64.b64decode(secret.removeprefix("whsec_"))) for secret in made} == {32}


def test_after_a_rotation_both_secrets_sign_for_a_day_and_then_the_new_one_alone() -> None:
    first = SigningSecrets(make_secret())
    second = SigningSecrets.parse(first.rotate(now=1000.25).dump())
    assert second.previous == first.current
    alone = [sign(secret, "msg-1", timestamp=5, body="{}") for secret in (second.current, first.current)]
    assert second.sign("msg-1", timestamp=5, body="{}", now=1000.25).split(" ") == alone
    late = 1000.25 + ROTATION_SECONDS
    assert second.sign("msg-1", timestamp=5, body="{}", now=late) == alone[0]
    third = second.rotate(now=1001.0)
    assert first.current not in third.dump()
    assert first.current not in repr(first)
