"""The demo from beginning to end."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finesmith import Client, Job
from rich.console import Console

from examples.demo.base_model import build_base_model
from examples.demo.jobs import (
    BASE_CONFIG,
    OWN_MODEL_CONFIG,
    TUNING_CONFIG,
    StepTime,
    download_folder,
    read_step_times,
    run_job,
)
from examples.demo.measuring import ModelFolders, measure_models
from examples.demo.report import LEAST_GAIN, Report, print_report, write_report
from examples.demo.rows import DemoRows, split_rows
from examples.demo.service import DemoService
from trainer_core.quantizers.library_noise import quiet_library

DATA = Path(__file__).resolve().parents[1] / "data"
MARKER = ".finesmith-demo"
STEPS = ["prepare", "train", "fuse", "quantize"]


@dataclass(frozen=True)
class DemoOptions:
    """What the command line says."""

    model: Path | None
    """A local Hugging Face folder to tune; None: a base that the demo makes and trains."""
    data: Path | None
    """JSONL to tune on; None: the shipped dialogues."""
    keep: bool
    """Leave the service running."""
    folder: Path
    """Where everything is put; emptied first."""
    report: Path


def run_demo(options: DemoOptions, console: Console) -> Report:
    """Runs everything and returns the report, which is printed and written too.

    Raises finesmith's errors for a job that failed, SystemExit for input or a service that does not work.
    """
    started = time.monotonic()
    _empty_folder(options.folder)
    rows = split_rows(options.data or DATA / "dialogues.jsonl", options.folder / "rows")
    models = options.folder / "models" if options.model is None else options.model.parent
    service = DemoService(options.folder / "service", model_root=models, outlives_demo=options.keep)
    with _running(service, console, keep=options.keep) as client:
        steps: list[StepTime] = []
        base = _make_base(client, rows, models, steps, console) if options.model is None else options.model
        console.rule("Second job: prepare, train, fuse, quantize")
        config = (TUNING_CONFIG if options.model is None else OWN_MODEL_CONFIG) | {
            "model_name_or_path": f"local:{base.name}"
        }
        job = run_job(
            client,
            name="tune",
            config=config,
            steps=STEPS,
            training_file=rows.training,
            validation_file=rows.validation,
        )
        steps += read_step_times(job)
        folders = _download(job, base, options.folder / "artifacts")
    console.rule("Measuring")
    report = Report(
        measurements=measure_models(folders, rows),
        steps=steps,
        seconds=time.monotonic() - started,
        artifacts=[folders.adapter, folders.fused, folders.quantized],
        least_gain=LEAST_GAIN if options.model is None and options.data is None else 0.0,
    )
    write_report(report, options.report)
    print_report(report, console)
    return report


@contextmanager
def _running(service: DemoService, console: Console, *, keep: bool) -> Iterator[Client]:
    console.print(f"Starting the service on {service.url} …")
    service.start()
    is_done = False
    try:
        with Client(service.url, api_key=service.wait_until_ready()) as client:
            yield client
        is_done = True
    finally:
        if keep and is_done:
            console.print(f"The service goes on at {service.url}, its key in {service.data_folder / 'api_key'}.")
            console.print(f"End it with: kill {service.pid}")
        else:
            service.stop()


def _make_base(client: Client, rows: DemoRows, models: Path, steps: list[StepTime], console: Console) -> Path:
    """A model worth tuning: built here, trained by a first job of its own, its artifact the base of the next."""
    text = DATA / "base_text.jsonl"
    with quiet_library():
        num_parameters = build_base_model(models / "untrained", text_files=[text, rows.training])
    console.rule(f"First job: train a base of {num_parameters / 1e6:.1f} million parameters on plain text")
    job = run_job(client, name="base", config=BASE_CONFIG, steps=["prepare", "train"], training_file=text)
    steps += read_step_times(job)
    return download_folder(job, name="model", target=models / "base")


def _download(job: Job, base: Path, folder: Path) -> ModelFolders:
    folder.mkdir(parents=True)
    paths = {name: download_folder(job, name=name, target=folder / name) for name in ("adapter", "fused", "quantized")}
    return ModelFolders(base=base, **paths)


def _empty_folder(folder: Path) -> None:
    """Only what an earlier demo made is removed."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise SystemExit(f"{folder} is not empty and not an earlier demo's; choose another with --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
