"""The step prepare: `python -m glossary.cli.prepare --key value …`."""

from glossary.core.config import GlossaryConfig
from glossary.core.registry import register_components
from trainer_core.cli import cli_run_prepare

if __name__ == "__main__":
    register_components()
    cli_run_prepare(config_cls=GlossaryConfig)
