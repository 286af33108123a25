"""The step train: `python -m glossary.cli.train --key value …`."""

from glossary.core.config import GlossaryConfig
from glossary.core.registry import register_components
from trainer_core.cli import cli_run_train

if __name__ == "__main__":
    register_components()
    cli_run_train(config_cls=GlossaryConfig)
