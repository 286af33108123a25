"""The step train with an extended Config."""

from my_project.core.config import DemoConfig
from trainer_core.cli import cli_run_train

if __name__ == "__main__":
    cli_run_train(config_cls=DemoConfig)
