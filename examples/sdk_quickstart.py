"""Fine-tunes a model on a running service with the SDK: upload, create, wait, download.

    make up                                                   # in another shell
    .venv/bin/python examples/sdk_quickstart.py [MODEL [DATA [FOLDER]]]

The address and the key come from FINESMITH_BASE_URL and FINESMITH_API_KEY; without them the embedded service of this
folder is used.
"""

import os
import sys
from pathlib import Path

from finesmith import Client, JobFailed

DEFAULTS = ["Qwen/Qwen3-0.6B", "examples/data/dialogues.jsonl", "my-model"]


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 when the tuned model has been downloaded."""
    model, data, folder = arguments + DEFAULTS[len(arguments) :]
    api_key = os.environ.get("FINESMITH_API_KEY") or Path("finesmith-data/api_key").read_text()

    with Client(api_key=api_key) as client:
        file = client.files.upload(data)
        print(f"uploaded {file.filename}: {file.id}, {file.num_samples} samples")

        job = client.jobs.create(
            config={"model_name_or_path": model, "apply_lora": True, "warmup_steps": 10},
            steps=["prepare", "train", "fuse"],
            training_file=file,
        )
        print(f"created {job.id}")

        try:
            job = job.wait(timeout=3600)
        except JobFailed as failure:
            print(failure)
            for line in failure.job.logs()[-20:]:
                print(f"  {line.text}")
            return 1

        for path in job.download(folder, prefix="fused"):
            print(f"{path.stat().st_size:>12,} bytes  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
