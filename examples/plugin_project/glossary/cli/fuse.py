"""The step fuse: `python -m glossary.cli.fuse --key value …`."""

from glossary.core.config import GlossaryConfig
from glossary.core.registry import register_components
from trainer_core.cli import cli_run_fuse

if __name__ == "__main__":
    register_components()
    cli_run_fuse(config_cls=GlossaryConfig)
