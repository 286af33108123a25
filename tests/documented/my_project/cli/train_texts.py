"""The step train on texts that the script itself holds: the script that the documentation runs by `deepspeed`."""

from trainer_core import Config
from trainer_core.cli import cli_run_train
from trainer_core.datasets import GeneralDataset

if __name__ == "__main__":
    train_data = ["Hello!"] * 100
    train_dataset = GeneralDataset.from_list(data=train_data)
    cli_run_train(config_cls=Config, train_dataset=train_dataset)
