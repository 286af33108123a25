"""Downloads: cut, resumed, corrupted, and led astray."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import finesmith
import pytest
from finesmith import Client, RetryPolicy

from tests.unit.client import examples, fake_service
from tests.unit.client.fake_service import DROPPED, FakeService, Reply, Request

PATH = f"/v1/jobs/{examples.JOB_ID}"
WEIGHTS = random.Random(7).randbytes(3_000_000)
CONFIG = b'{"model_type": "llama"}'


def artifact(path: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    return {"id": f"art-{path}", "object": "artifact", "name": path.split("/")[0], "path": path,
            "bytes": len(content), "sha256": digest, "created_at": 1.0}  # fmt: skip


def part_name(content: bytes) -> str:
    return f"model.safetensors.{hashlib.sha256(content).hexdigest()[:12]}.part"


@pytest.fixture
def job(client: Client, service: FakeService) -> finesmith.Job:
    service.on("GET", PATH, Reply(json=examples.job("succeeded")))
    files = {"fused/model.safetensors": WEIGHTS, "fused/config.json": CONFIG, "fusedish/config.json": CONFIG}
    service.on("GET", f"{PATH}/artifacts", fake_service.listing([artifact(*item) for item in files.items()]))
    for path, content in files.items():
        service.on("GET", f"{PATH}/artifacts/{path}", fake_service.ranged(content))
    return client.jobs.get(examples.JOB_ID)


def weights_requests(service: FakeService) -> list[str | None]:
    return [item.headers.get("range") for item in service.asked("GET", f"{PATH}/artifacts/fused/model.safetensors")]


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_all_artifacts_come_into_their_folders(job: finesmith.Job, tmp_path: Path) -> None:
    paths = job.download(tmp_path / "results")
    assert paths == [tmp_path / "results" / item.path for item in job.artifacts()]
    assert (tmp_path / "results/fused/model.safetensors").read_bytes() == WEIGHTS
    assert everything_in(tmp_path) == {
        "results/fused/model.safetensors", "results/fused/config.json", "results/fusedish/config.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("fused", {"fused/model.safetensors", "fused/config.json"}),
        ("fused/", {"fused/model.safetensors", "fused/config.json"}),
        ("fused/config.json", {"fused/config.json"}),
    ],
)
def test_a_prefix_takes_whole_names_only(job: finesmith.Job, tmp_path: Path, prefix: str, expected: set[str]) -> None:
    job.download(str(tmp_path), prefix=prefix)
    assert everything_in(tmp_path) == expected


def test_a_prefix_that_holds_nothing_says_what_there_is(job: finesmith.Job, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is: fused, fusedish"):
        job.download(tmp_path, prefix="quantized")


def test_a_cut_download_goes_on_where_it_was(job: finesmith.Job, service: FakeService, tmp_path: Path) -> None:
    half = Reply(body=WEIGHTS, drop_after_bytes=1_000_000)
    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", half, DROPPED, fake_service.ranged(WEIGHTS))
    job.download(tmp_path, prefix="fused")
    assert (tmp_path / "fused/model.safetensors").read_bytes() == WEIGHTS
    assert weights_requests(service) == [None, "bytes=1000000-", "bytes=1000000-"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    service.on(
        "GET", f"{PATH}/artifacts/fused/model.safetensors", Reply(body=WEIGHTS, drop_after_bytes=1_000_000), DROPPED
    )
    with pytest.raises(finesmith.APIConnectionError):
        job.download(tmp_path, prefix="fused")
    assert everything_in(tmp_path) == {f"fused/{part_name(WEIGHTS)}"}
    service.requests.clear()
    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", fake_service.ranged(WEIGHTS))
    job.download(tmp_path, prefix="fused")
    assert weights_requests(service) == ["bytes=1000000-"]
    assert everything_in(tmp_path) == {"fused/model.safetensors", "fused/config.json"}


def test_what_is_there_is_not_fetched_again_and_what_is_broken_is(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    job.download(tmp_path)
    (tmp_path / "fused/config.json").write_bytes(CONFIG[::-1])
    service.requests.clear()
    job.download(tmp_path)
    assert weights_requests(service) == []
    assert len(service.asked("GET", f"{PATH}/artifacts/fused/config.json")) == 1
    assert (tmp_path / "fused/config.json").read_bytes() == CONFIG


def test_corrupted_bytes_are_fetched_once_more(job: finesmith.Job, service: FakeService, tmp_path: Path) -> None:
    corrupted = WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])
    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", Reply(body=corrupted), fake_service.ranged(WEIGHTS))
    job.download(tmp_path, prefix="fused")
    assert (tmp_path / "fused/model.safetensors").read_bytes() == WEIGHTS
    assert weights_requests(service) == [None, None]


def test_a_part_that_was_damaged_on_the_disk_is_given_up(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused" / part_name(WEIGHTS)).write_bytes(b"x" * 1_000_000)
    job.download(tmp_path, prefix="fused")
    assert weights_requests(service) == ["bytes=1000000-", None]
    assert (tmp_path / "fused/model.safetensors").read_bytes() == WEIGHTS


def test_bytes_that_stay_corrupted_never_get_their_name(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", Reply(body=WEIGHTS[:-1] + b"?"))
    with pytest.raises(finesmith.ChecksumMismatch, match="sha256") as caught:
        job.download(tmp_path, prefix="fused")
    assert "fused/model.safetensors" in str(caught.value)
    assert everything_in(tmp_path) == set()


@pytest.mark.parametrize("body", [WEIGHTS[:-10], WEIGHTS + b"more"])
def test_a_wrong_size_is_a_mismatch(job: finesmith.Job, service: FakeService, tmp_path: Path, body: bytes) -> None:
    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", Reply(body=body))
    with pytest.raises(finesmith.ChecksumMismatch, match="3000000 were announced"):
        job.download(tmp_path, prefix="fused")


def test_a_server_without_ranges_is_read_from_the_beginning(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    half, whole = Reply(body=WEIGHTS, drop_after_bytes=1_000_000), Reply(body=WEIGHTS)
    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", half, whole)
    job.download(tmp_path, prefix="fused")
    assert (tmp_path / "fused/model.safetensors").read_bytes() == WEIGHTS
    assert weights_requests(service) == [None, "bytes=1000000-"]


def test_what_never_ends_is_not_read_to_its_end(job: finesmith.Job, service: FakeService, tmp_path: Path) -> None:
    # More than the sockets' buffers hold: the server notices that nobody reads on.
    service.on("GET", f"{PATH}/artifacts/fused/config.json", Reply(body=bytes(64 << 20)))
    with pytest.raises(finesmith.ChecksumMismatch):
        job.download(tmp_path, prefix="fused/config.json")
    assert service.num_answers_cut_short == 2


def test_a_line_that_breaks_again_and_again_is_no_outage_as_long_as_bytes_come(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    def send_a_little(request: Request) -> Reply:
        return replace(fake_service.ranged(WEIGHTS)(request), drop_after_bytes=250_000)

    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", send_a_little)
    impatient = RetryPolicy(initial_delay_seconds=0.02, max_delay_seconds=0.02, max_outage_seconds=0.04)
    with Client(service.url, api_key="k", retry=impatient) as client:
        client.jobs.download(job.id, tmp_path, prefix="fused/model.safetensors")
    assert (tmp_path / "fused/model.safetensors").read_bytes() == WEIGHTS
    assert len(weights_requests(service)) == 12


def test_content_is_asked_for_uncompressed(job: finesmith.Job, service: FakeService, tmp_path: Path) -> None:
    job.download(tmp_path, prefix="fused/config.json")
    (request,) = service.asked("GET", f"{PATH}/artifacts/fused/config.json")
    assert request.headers["accept-encoding"] == "identity"


def test_an_answer_from_another_place_is_refused(job: finesmith.Job, service: FakeService, tmp_path: Path) -> None:
    half = Reply(body=WEIGHTS, drop_after_bytes=1_000_000)
    wrong = Reply(206, body=WEIGHTS[5:], headers={"content-range": "bytes 5-2999999/3000000"})
    service.on("GET", f"{PATH}/artifacts/fused/model.safetensors", half, wrong)
    with pytest.raises(finesmith.ChecksumMismatch, match="asked for bytes from 1000000"):
        job.download(tmp_path, prefix="fused")


def test_a_part_that_is_longer_than_the_file_is_given_up(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused" / part_name(WEIGHTS)).write_bytes(WEIGHTS + b"more")
    job.download(tmp_path, prefix="fused")
    assert (tmp_path / "fused/model.safetensors").read_bytes() == WEIGHTS


def test_an_empty_file_needs_no_transfer(job: finesmith.Job, service: FakeService, tmp_path: Path) -> None:
    service.on("GET", f"{PATH}/artifacts", fake_service.listing([artifact("data/empty.jsonl", b"")]))
    job.download(tmp_path)
    assert (tmp_path / "data/empty.jsonl").read_bytes() == b""


def test_odd_but_honest_names_reach_the_service_as_they_are(
    job: finesmith.Job, service: FakeService, tmp_path: Path
) -> None:
    path = "model/a b#c?d%2f é.json"
    service.on("GET", f"{PATH}/artifacts", fake_service.listing([artifact(path, CONFIG)]))
    service.on("GET", f"{PATH}/artifacts/{path}", fake_service.ranged(CONFIG))
    job.download(tmp_path)
    assert (tmp_path / path).read_bytes() == CONFIG


@pytest.mark.parametrize(
    "path",
    [
        "../outside.txt",
        "fused/../../outside.txt",
        "/etc/outside.txt",
        "fused//outside.txt",
        "./outside.txt",
        "..",
        "",
        "..\\outside.txt",
        "C:\\outside.txt",
        "C:outside.txt",
        "fused/out\nside.txt",
        "fused/out\0side.txt",
    ],
)
def test_a_path_out_of_the_folder_is_refused_before_anything_is_written(
    job: finesmith.Job, service: FakeService, tmp_path: Path, path: str
) -> None:
    listed = [artifact("fused/config.json", CONFIG), artifact(path, CONFIG)]
    service.on("GET", f"{PATH}/artifacts", fake_service.listing(listed))
    with pytest.raises(finesmith.UnsafePathError):
        job.download(tmp_path / "results")
    assert everything_in(tmp_path) == set()


def test_a_link_out_of_the_folder_is_not_followed(job: finesmith.Job, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results/fused").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(finesmith.UnsafePathError, match="link"):
        job.download(tmp_path / "results")
    assert everything_in(tmp_path) == set()


def test_an_artifact_that_is_gone_is_not_found(job: finesmith.Job, service: FakeService, tmp_path: Path) -> None:
    service.on("GET", f"{PATH}/artifacts/fused/config.json", fake_service.error(404, "Deleted."))
    with pytest.raises(finesmith.NotFoundError, match="Deleted"):
        job.download(tmp_path, prefix="fused/config.json")
