"""The step fuse."""

from trainer_core.cli import cli_run_fuse

if __name__ == "__main__":
    cli_run_fuse()
