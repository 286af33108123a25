"""The step quantize: `python -m glossary.cli.quantize --key value …`."""

from glossary.core.config import GlossaryConfig
from glossary.core.registry import register_components
from trainer_core.cli import cli_run_quantize

if __name__ == "__main__":
    register_components()
    cli_run_quantize(config_cls=GlossaryConfig)
