"""A command line of a stage → its configuration, or the stage and data that it names; nothing is run here."""

from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from datamodules.base import TextDataModule
from experiments.cli.config_errors import ConfigParser, check_config_files
from experiments.cli.quiet import hush
from modules.stage import Stage


class StageCLI(LightningCLI):
    """Lightning's CLI: the YAML names stage and data; `--run` is the folder that everything is written to."""

    save_config: type[SaveConfigCallback] | None = None
    """writes the resolved configuration of a run"""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run",
            type=str,
            default="runs/run",
            help="folder of this run: config, metrics, checkpoints, export",
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="train again in a folder that holds a finished run"
        )
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=10.0, help="minutes between checkpoints"
        )

    def _option(self, name: str) -> Any:
        return self.config[self.subcommand][name]


CLI = TypeVar("CLI", bound=StageCLI)


class BuildOnly(StageCLI):
    """Builds the stage and the data that a command line describes, with a trainer that does nothing."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        return L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )

    def _run_subcommand(self, subcommand: str) -> None:
        pass


class ParseOnly(StageCLI):
    """Parses a command line and builds nothing."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parse(argv: list[str], cli: type[CLI]) -> CLI:
    """Parses `fit|validate|test|predict …` and does what `cli` does with it: run, build or only parse."""
    check_config_files(argv)
    return cli(
        model_class=Stage,
        datamodule_class=TextDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=ConfigParser,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=cli.save_config,
        save_config_kwargs={"save_to_log_dir": False},
        args=argv,
    )


def parse_data(argv: list[str]) -> TextDataModule:
    """The data module of a command line."""
    hush()
    return parse(argv, BuildOnly).datamodule
