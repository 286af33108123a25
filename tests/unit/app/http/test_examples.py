"""What the documentation shows is what the service answers."""

import pytest
from pydantic import BaseModel

from app.api import access_schemas, examples, schemas


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
        (examples.deleted(examples.JOB), schemas.DeletedObject),
        (examples.list_of(examples.JOB), schemas.ListOf[schemas.Job]),
    ],
)
def test_each_example_has_exactly_the_fields_of_its_schema(example: dict, model: type[BaseModel]):
    parsed = model.model_validate(example, strict=False)
    assert set(parsed.model_dump()) == set(example)
