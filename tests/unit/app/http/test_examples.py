"""What the documentation shows is what the service answers."""

from typing import get_args

import pytest
from pydantic import BaseModel

from app.api import access_schemas, examples, schemas, webhook_schemas
from app.jobs.outbox import JOB_EVENT_TYPES


@pytest.mark.parametrize(
    ("example", "model"),
    [
        (examples.JOB, schemas.Job),
        (examples.EVENT, schemas.Event),
        (examples.LOG_LINE, schemas.LogLine),
        (examples.ARTIFACT, schemas.Artifact),
        (examples.FILE, schemas.File),
        (examples.WORKER, schemas.Worker),
        (examples.QUEUED_PREVIEW, schemas.Preview),
        (examples.PREVIEW, schemas.Preview),
        (examples.VALIDATION, schemas.Validation),
        (examples.REGISTRIES, schemas.Registries),
        (examples.KEY, access_schemas.Key),
        (examples.NEW_KEY, access_schemas.NewKey),
        (examples.PROJECT, access_schemas.Project),
        (examples.SECRET, access_schemas.Secret),
        (examples.WEBHOOK, webhook_schemas.Webhook),
        (examples.NEW_WEBHOOK, webhook_schemas.NewWebhook),
        (examples.DELIVERY, webhook_schemas.WebhookDelivery),
        (examples.deleted(examples.JOB), schemas.DeletedObject),
        (examples.list_of(examples.JOB), schemas.ListOf[schemas.Job]),
    ],
)
def test_each_example_has_exactly_the_fields_of_its_schema(example: dict, model: type[BaseModel]):
    parsed = model.model_validate(example, strict=False)
    assert set(parsed.model_dump()) == set(example)


def test_webhooks_can_be_told_of_what_the_outbox_tells():
    assert get_args(webhook_schemas.WebhookEvent) == JOB_EVENT_TYPES
