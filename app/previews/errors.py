"""Errors of the preview service.

JobStoreError
├── PreviewNotFound      get: no such preview of this owner, or it is older than a day
└── TooManyPreviews      create: the owner's earlier ones are not rendered yet
"""

from app.jobs.errors import JobStoreError


class PreviewNotFound(JobStoreError):
    code = "preview_not_found"

    def __init__(self, preview_id: str) -> None:
        super().__init__(f"no preview {preview_id!r}", param="preview_id")


class TooManyPreviews(JobStoreError):
    code = "too_many_previews"

    def __init__(self, num_unfinished: int) -> None:
        super().__init__(f"{num_unfinished} of your previews are not rendered yet; wait for them")
