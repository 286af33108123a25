"""The step train with this project's components."""

from my_project.core.registry import registry_components
from trainer_core.cli import cli_run_train

if __name__ == "__main__":
    registry_components()
    cli_run_train()
