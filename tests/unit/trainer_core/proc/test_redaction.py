"""Tokens do not leave a step, and what only looks like one does."""

import pytest

from trainer_core.redaction import Redactor

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_TOKEN = "hf_" + "a" * 34


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {HUB_TOKEN}", "token [redacted]"),
        ("wandb_v1_" + "K" * 60, "[redacted]"),
        (f"WANDB_API_KEY={COMMIT}", "WANDB_API_KEY=[redacted]"),
        (f'wandb: "api_key": "{COMMIT}"', 'wandb: "api_key": "[redacted]"'),
        (f"machine api.wandb.ai login user password {COMMIT}", "machine api.wandb.ai login user password [redacted]"),
        # The word may be the job's own secret's neighbour: neither hides the other.
        (f"WANDB_API_KEY=s3cret-token {COMMIT}", "WANDB_API_KEY=[redacted] [redacted]"),
        (f"revision {COMMIT}", f"revision {COMMIT}"),
        (f"wandb is off\nrevision {COMMIT}", f"wandb is off\nrevision {COMMIT}"),
        (f"api_key sha256 {COMMIT}0123456789abcdef01234567", f"api_key sha256 {COMMIT}0123456789abcdef01234567"),
    ],
)
def test_tokens_are_blotted_out_and_commits_are_not(text: str, shown: str) -> None:
    assert Redactor(["s3cret-token"]).redact_text(text) == shown
