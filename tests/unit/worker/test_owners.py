"""An owner's home and caches on a host: apart from others', and bounded."""

import os
from pathlib import Path

import pytest

from app.settings import Settings
from worker.owners import OwnerFolder, make_owner_folder


def fill(path: Path, *, num_bytes: int, used_at: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(num_bytes))
    for each in (path, path.parent):
        os.utime(each, (used_at, used_at))


@pytest.fixture
def owner(tmp_path: Path) -> OwnerFolder:
    return make_owner_folder(Settings(data_dir=tmp_path), "anna")


def test_each_owner_has_a_folder_of_its_own_that_only_the_worker_reads(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    names = ("anna", "bob", "../anna", "a/b", "..", "", "x" * 300, "änna", "a\0b")
    folders = [make_owner_folder(settings, name).root for name in names]
    assert len(set(folders)) == len(names)
    assert {folder.parent for folder in folders} == {tmp_path / "owners"}
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_what_was_used_least_recently_goes_first(owner: OwnerFolder) -> None:
    hub = owner.cache / "huggingface" / "hub"
    fill(hub / "models--a--old" / "blob", num_bytes=50_000, used_at=1_000)
    fill(hub / "models--a--new" / "blob", num_bytes=50_000, used_at=3_000)
    fill(owner.cache / "triton" / "kernel", num_bytes=50_000, used_at=2_000)

    assert owner.prune(1 << 30) == 0
    assert owner.prune(110_000) >= 50_000
    assert sorted(path.name for path in hub.iterdir()) == ["models--a--new"]
    assert (owner.cache / "triton").exists()
    owner.prune(60_000)
    assert not (owner.cache / "triton").exists()
    owner.prune(0)
    assert list(hub.iterdir()) == []
    assert owner.prune(None) == 0


def test_nothing_is_removed_while_a_job_of_the_owner_runs(owner: OwnerFolder) -> None:
    model = owner.cache / "huggingface" / "hub" / "models--a--b" / "blob"
    fill(model, num_bytes=1000, used_at=1_000)
    with owner.hold(), owner.hold():
        assert owner.prune(0) == 0
        assert model.exists()
    assert owner.prune(0) >= 1000
    assert not model.exists()


@pytest.mark.parametrize("link", ["home", "home/.cache", "home/.cache/huggingface", "home/.cache/huggingface/hub"])
def test_a_link_in_place_of_a_cache_leads_nowhere(owner: OwnerFolder, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    for name in (".cache/huggingface/hub/models--x", "huggingface/hub/models--x", "hub/models--x", "models--x"):
        fill(outside / name / "blob", num_bytes=1000, used_at=1_000)
    path = owner.root / link
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        os.removedirs(path) if link == "home/.cache" else path.rename(tmp_path / "moved")
        path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside)

    owner.prune(0)

    assert sum(1 for _ in outside.rglob("blob")) == 4
