"""What endpoints ask for in their signatures. All are `async`, or each would cost a hop to a thread."""

from typing import Annotated

from fastapi import Depends, Header, Path, Query, Security
from starlette.requests import HTTPConnection

from app.api.services import Services
from app.auth import require_admin, require_principal
from app.keys.views import Principal


async def get_services(connection: HTTPConnection) -> Services:
    """The services of the app that answers this request."""
    services: Services = connection.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]
PrincipalDep = Annotated[Principal, Security(require_principal)]
AdminDep = Annotated[Principal, Security(require_admin)]

Limit = Annotated[int, Query(ge=1, le=100, description="Longest list to answer.")]
After = Annotated[str | None, Query(max_length=64, description="The id after which to go on (the last one seen).")]
JobId = Annotated[str, Path(max_length=64, description="The job's id.", examples=["job-01jd8m3v5xq2c7r9t4w6y8z0ab"])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A word of yours for this submission: sent again with the same body it makes no second object, but "
        "answers the first one; with another body it is an error.",
    ),
]
KeyId = Annotated[str, Path(max_length=64, description="The key's id.", examples=["key-01jd8m0z9y8x7w6v5t4s3r2q1p"])]
ProjectId = Annotated[str, Path(max_length=64, description="The project's id.", examples=["ana"])]
SecretName = Annotated[str, Path(max_length=64, description="The secret's name.", examples=["hub"])]
PreviewId = Annotated[
    str, Path(max_length=64, description="The preview's id.", examples=["preview-01jd8m4q2s6x8z0b3d5f7h9k1m"])
]
WebhookId = Annotated[
    str, Path(max_length=64, description="The webhook's id.", examples=["webhook-01jd8m5r3t7v9x1z3b5d7f9h2k"])
]
DeliveryId = Annotated[
    str, Path(max_length=64, description="The message's id.", examples=["msg-01jd8m6s4u8w0y2a4c6e8g0j2m"])
]
FileId = Annotated[str, Path(max_length=64, description="The file's id.", examples=["file-01jd8m2k4wp1b6q8s3v5x7y9za"])]
