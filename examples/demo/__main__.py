"""`python -m examples.demo`: the service's whole job on a small model; exit status 0 only if all bounds hold."""

import argparse
import json
import signal
import sys
from pathlib import Path

from finesmith import FinesmithError
from rich.console import Console

from examples.demo.run import DemoOptions, run_demo


def main() -> int:
    """Reads the command line, runs the demo, returns the exit status."""
    options = _parse_arguments()
    # As Ctrl+C does: what was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report = run_demo(options, Console(highlight=False))
    except FinesmithError as error:
        options.report.write_text(json.dumps({"status": "failed", "problems": [str(error)]}, indent=2) + "\n")
        sys.stderr.write(f"error: {error}\nThe service's logs: {options.folder / 'service' / 'logs'}\n")
        return 1
    return 1 if report.problems else 0


def _parse_arguments() -> DemoOptions:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--model", type=Path, help="a local Hugging Face folder to tune, instead of a base made here")
    parser.add_argument("--data", type=Path, help="JSONL to tune on, instead of the shipped dialogues")
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    parser.add_argument("--folder", type=Path, default=Path("demo-data"), help="where everything is put")
    parser.add_argument("--report", type=Path, default=Path("demo-report.json"), help="file for the facts")
    given = parser.parse_args()
    if given.model is not None and not (given.model / "config.json").is_file():
        parser.error(f"--model: {given.model} is no model folder: it has no config.json")
    if given.data is not None and not given.data.is_file():
        parser.error(f"--data: there is no file {given.data}")
    return DemoOptions(
        model=None if given.model is None else given.model.resolve(),
        data=given.data,
        keep=given.keep,
        folder=given.folder.resolve(),
        report=given.report.resolve(),
    )


if __name__ == "__main__":
    sys.exit(main())
