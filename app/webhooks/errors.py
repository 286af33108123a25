"""Errors of webhooks.

JobStoreError
├── WebhookNotFound      service: no such webhook of this owner
├── DeliveryNotFound     service: the webhook has no such message
├── TooManyWebhooks      create: the owner has as many as are allowed
└── WebhookDisabled      send_test, retry: nothing is sent to it until it is enabled

BadWebhookUrl            parse_target: the URL cannot be a receiver's; the service answers it as InvalidSubmission
SendFailed               postman: a message did not arrive; never fatal, the outbox tries again
"""

from app.jobs.errors import JobStoreError


class WebhookNotFound(JobStoreError):
    code = "webhook_not_found"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"no webhook {webhook_id!r}", param="webhook_id")


class DeliveryNotFound(JobStoreError):
    code = "delivery_not_found"

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"the webhook has no delivery {delivery_id!r}", param="delivery_id")


class TooManyWebhooks(JobStoreError):
    code = "too_many_webhooks"

    def __init__(self, limit: int) -> None:
        super().__init__(f"you have {limit} webhooks, and more are not allowed; delete one, or change one with PATCH")


class WebhookDisabled(JobStoreError):
    code = "webhook_disabled"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"webhook {webhook_id} is disabled; enable it with PATCH and enabled: true")


class BadWebhookUrl(ValueError):
    """The message says what is wrong with the URL and what to do."""


class SendFailed(Exception):
    """The message says why, in words that tell nothing of the network that the service runs in."""
