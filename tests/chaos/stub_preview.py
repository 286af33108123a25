"""Stands for the process that renders previews: says that the file has one row."""

import sys
from pathlib import Path

from trainer_core.attempt.secrets_line import read_secrets

if __name__ == "__main__":
    read_secrets()
    (Path(sys.argv[sys.argv.index("--folder") + 1]) / "result.json").write_text('{"num_rows": 1}')
