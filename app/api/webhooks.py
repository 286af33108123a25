"""Webhooks: receivers that are told what happens to jobs."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api import examples, schemas, webhook_schemas
from app.api.deps import After, DeliveryId, Limit, PrincipalDep, ServicesDep, WebhookId
from app.api.rendering import json_response, render_deleted, render_delivery, render_list, render_webhook
from app.api.responses import error_responses, example_of
from app.webhooks.views import DEFAULT_EVENT_TYPES, WebhookChange

router = APIRouter(tags=["webhooks"])


@router.post(
    "/v1/webhooks",
    summary="Create a webhook",
    status_code=201,
    response_model=webhook_schemas.NewWebhook,
    responses={
        **example_of(
            examples.NEW_WEBHOOK,
            status=201,
            description="The webhook with its secret, which is shown this once.",
            headers={"location": {"description": "Path of the webhook.", "schema": {"type": "string"}}},
        ),
        **error_responses(400, 409, 413, 422),
    },
)
def create_webhook(body: webhook_schemas.WebhookRequest, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Names a URL that is told what happens to all of your jobs from now on, in the form of Standard Webhooks.

    Each message is signed with the secret. It arrives at least once if the receiver answers with a 2xx within 15 s;
    else it is sent again for three days. Messages may come in another order than the events.
    """
    webhook, secret = services.webhooks.create(
        principal.owner, body.url, events=body.events or DEFAULT_EVENT_TYPES, description=body.description
    )
    headers = {"location": f"/v1/webhooks/{webhook.id}"}
    return json_response({**render_webhook(webhook), "secret": secret}, status=201, headers=headers)


@router.get(
    "/v1/webhooks",
    summary="List webhooks",
    response_model=schemas.ListOf[webhook_schemas.Webhook],
    responses={
        **example_of(examples.list_of(examples.WEBHOOK), description="Your webhooks, newest first."),
        **error_responses(422),
    },
)
def list_webhooks(services: ServicesDep, principal: PrincipalDep, limit: Limit = 20, after: After = None) -> Response:
    """Answers your webhooks without their secrets, the newest first."""
    page = services.webhooks.list(principal.owner, after=after, limit=limit)
    return json_response(render_list(map(render_webhook, page.data), has_more=page.has_more))


@router.get(
    "/v1/webhooks/{webhook_id}",
    summary="Get a webhook",
    response_model=webhook_schemas.Webhook,
    responses={**example_of(examples.WEBHOOK, description="The webhook as it is now."), **error_responses(404, 422)},
)
def get_webhook(webhook_id: WebhookId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Answers the webhook without its secret, which nobody can see again."""
    return json_response(render_webhook(services.webhooks.get(principal.owner, webhook_id)))


@router.patch(
    "/v1/webhooks/{webhook_id}",
    summary="Change a webhook",
    response_model=webhook_schemas.Webhook,
    responses={
        **example_of(examples.WEBHOOK, description="The webhook as it is now."),
        **error_responses(400, 404, 413, 422),
    },
)
def update_webhook(
    webhook_id: WebhookId, body: webhook_schemas.WebhookPatch, services: ServicesDep, principal: PrincipalDep
) -> Response:
    """Changes the fields that are given. Messages that wait go to a new URL too; disabling gives them up."""
    change = WebhookChange(
        names=frozenset(body.model_fields_set),
        url=body.url,
        events=body.events,
        description=body.description,
        enabled=body.enabled,
    )
    return json_response(render_webhook(services.webhooks.update(principal.owner, webhook_id, change)))


@router.delete(
    "/v1/webhooks/{webhook_id}",
    summary="Delete a webhook",
    response_model=schemas.DeletedObject,
    responses={
        **example_of(examples.deleted(examples.WEBHOOK), description="The webhook and its messages are gone."),
        **error_responses(404, 422),
    },
)
def delete_webhook(webhook_id: WebhookId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Deletes a webhook with its messages; one that is being sent may still arrive."""
    services.webhooks.delete(principal.owner, webhook_id)
    return json_response(render_deleted(webhook_id, "webhook"))


@router.post(
    "/v1/webhooks/{webhook_id}/rotate-secret",
    summary="Rotate a webhook's secret",
    response_model=webhook_schemas.NewWebhook,
    responses={
        **example_of(examples.NEW_WEBHOOK, description="The webhook with its new secret, which is shown this once."),
        **error_responses(404, 422),
    },
)
def rotate_webhook_secret(webhook_id: WebhookId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Makes a new secret. For a day each message is signed with the old one as well, so that none is refused meanwhile;
    rotate twice if the old one must not be good any longer."""
    webhook, secret = services.webhooks.rotate_secret(principal.owner, webhook_id)
    return json_response({**render_webhook(webhook), "secret": secret})


@router.post(
    "/v1/webhooks/{webhook_id}/test",
    summary="Send a test message",
    status_code=202,
    response_model=webhook_schemas.WebhookDelivery,
    responses={
        **example_of(
            {**examples.DELIVERY, "type": "webhook.test", "job_id": None},
            status=202,
            description="The message; its delivery tells whether it arrived.",
        ),
        **error_responses(404, 409, 422),
    },
)
def send_test_message(webhook_id: WebhookId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Sends a `webhook.test` message in the way of all others, with the same signature and retries."""
    return json_response(render_delivery(services.webhooks.send_test(principal.owner, webhook_id)), status=202)


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    summary="List a webhook's messages",
    response_model=schemas.ListOf[webhook_schemas.WebhookDelivery],
    responses={
        **example_of(examples.list_of(examples.DELIVERY), description="Its messages, newest first."),
        **error_responses(404, 422),
    },
)
def list_deliveries(
    webhook_id: WebhookId, services: ServicesDep, principal: PrincipalDep, limit: Limit = 20, after: After = None
) -> Response:
    """Answers the messages of the last 30 days and how far each got, the newest first."""
    page = services.webhooks.list_deliveries(principal.owner, webhook_id, after=after, limit=limit)
    return json_response(render_list(map(render_delivery, page.data), has_more=page.has_more))


@router.post(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry",
    summary="Send a message again",
    status_code=202,
    response_model=webhook_schemas.WebhookDelivery,
    responses={
        **example_of(examples.DELIVERY, status=202, description="The message, due now."),
        **error_responses(404, 409, 422),
    },
)
def retry_delivery(
    webhook_id: WebhookId, delivery_id: DeliveryId, services: ServicesDep, principal: PrincipalDep
) -> Response:
    """Sends the message at once, whatever became of it before; it keeps its id, and gets all its tries again if it had
    arrived or was given up."""
    return json_response(render_delivery(services.webhooks.retry(principal.owner, webhook_id, delivery_id)), status=202)
