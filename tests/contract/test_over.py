"""Which jobs nobody needs anything for any more."""

from sqlalchemy import update

from app.db.clock import db_now
from app.db.models import jobs
from app.db.session import transaction
from app.ids import new_id
from tests.support.installation import OWNER, CoreInstallation


def test_what_is_over_for_long_or_deleted_needs_no_workspace(core: CoreInstallation) -> None:
    waiting, just_over, long_over = core.submit(), core.submit(), core.submit()
    for job in (just_over, long_over):
        core.jobs.cancel(OWNER, job.id)
    with transaction(core.sessions) as connection:
        connection.execute(update(jobs).where(jobs.c.id == long_over.id).values(finished_at=db_now() - 7200))
    deleted = new_id("job")
    asked = [waiting.id, just_over.id, long_over.id, deleted]
    assert core.jobs.list_over(asked, over_seconds=3600) == [long_over.id, deleted]
