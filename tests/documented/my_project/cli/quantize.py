"""The step quantize."""

from trainer_core.cli import cli_run_quantize

if __name__ == "__main__":
    cli_run_quantize()
