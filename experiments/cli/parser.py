"""A command line of a stage → its configuration, or the stage and the data it names; nothing runs here."""

from enum import Enum
from typing import Any, Literal, TypeVar

import lightning as L
import torch
import yaml
from jsonargparse.typing import register_type
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import datamodules
import modules
from datamodules.base import TextDataModule
from experiments.cli.complaints import complaint, long_name_complaint
from experiments.cli.config_errors import ConfigParser
from experiments.cli.config_files import check_config_files
from experiments.cli.null_errors import null_errors
from experiments.cli.option_errors import option_errors
from experiments.cli.path_options import with_listed_paths
from experiments.cli.quiet import hush
from experiments.cli.shipped_configs import with_shipped_configs
from experiments.cli.sweep_arguments import spelled_out
from experiments.cli.upstream import defaults_kept_to_their_class
from experiments.cli.user_errors import UserError
from modules.stage import Stage
from strategies.precision import precision_of

Precision = Literal[
    "auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true",
    "transformer-engine", "transformer-engine-float16", "32", "bf16", "16", "64", 32, 16, 64,
]  # fmt: skip
"""Lightning's, and `auto`: bf16-mixed where the device has bf16 in hardware, else 32-true"""


class Trainer(L.Trainer):
    """Lightning's. A configuration may say `precision: auto`, which the CLI replaces before it makes one."""

    def __init__(self, *, precision: Precision | None = None, **kwargs: Any):
        super().__init__(precision=precision, **kwargs)  # type: ignore[arg-type]


class StageCLI(LightningCLI):
    """Lightning's CLI: the YAML names stage and data; `--run` is the folder that everything is written to."""

    def __init__(self, *, args: list[str], **kwargs: Any):
        self.command = args[0] if args else ""
        try:
            super().__init__(args=args, **kwargs)
        except OSError as error:
            config = getattr(self, "config", {}).get(self.command)
            if config and (refusal := long_name_complaint(error, config.as_dict())):
                raise refusal from error
            raise

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Lightning's, of which only the one that is run gets a parser: each has all options of the trainer,
        and making four parsers takes as long as parsing."""
        every = LightningCLI.subcommands()
        return {self.command: every[self.command]} if self.command in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        folder = "folder of this run: config, metrics, checkpoints, export"
        parser.add_argument("--run", type=str, default="runs/run", help=folder)
        again = "train again in a folder that holds a finished run"
        parser.add_argument("--overwrite", type=bool, default=False, help=again)
        minutes = "minutes between checkpoints"
        parser.add_argument("--checkpoint_minutes", type=float, default=10.0, help=minutes)
        artifacts = "name parents and export as W&B artifacts: where they lie, nothing is sent"
        parser.add_argument("--wandb_artifacts", type=bool, default=False, help=artifacts)
        untrained = "let validate, test and predict run a network with random weights"
        parser.add_argument("--untrained", type=bool, default=False, help=untrained)

    precision_is_auto = False
    """whether the precision was left to Trivium"""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        options = self.config[self.config["subcommand"]]
        if errors := [*option_errors(options), *null_errors(options.as_dict())]:
            raise UserError("\n".join(errors))

    def before_instantiate_classes(self) -> None:
        """Puts what `auto` stands for into the configuration, so that all who read it, a run's saved
        configuration too, see what is run."""
        trainer = self.config[self.subcommand]["trainer"]
        self.precision_is_auto = trainer["precision"] == "auto"
        trainer["precision"] = precision_of(trainer["precision"], trainer["accelerator"])

    def resolved(self) -> dict[str, Any]:
        """The configuration as a run's YAML has it, defaults filled in. It was valid when it was parsed; as
        JSON it would lose keys that are numbers."""
        text = self.parser.dump(self.config, format="yaml", skip_none=False, skip_validation=True)
        return yaml.safe_load(text)[self.subcommand]

    def _dump_config(self) -> None:
        """Lightning's hook for what `save_hyperparameters` of a stage of one's own keeps; its own validates
        all options once more, which takes nearly half as long as parsing."""
        if not hasattr(self, "config_dump"):
            self.config_dump = self.resolved()

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except Exception as error:
            config = self.config[self.subcommand]
            if refusal := complaint(error, "trainer", config.as_dict()):
                raise refusal from error
            raise

    def option(self, name: str) -> Any:
        """What the command line says, or the YAML, or the default."""
        return self.config[self.subcommand][name]


CLI = TypeVar("CLI", bound=StageCLI)


class ParseOnly(StageCLI):
    """Parses a command line and builds nothing."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        """Lightning has no option to parse a subcommand without running it."""


class BuildOnly(StageCLI):
    """Builds the stage and the data that a command line describes, with a trainer that does nothing."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        """The trainer of the command line may need devices, or ranks, that are not here."""
        return L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parse(argv: list[str], cli: type[CLI], save_config: type[SaveConfigCallback] | None = None) -> CLI:
    """Parses `fit|validate|test|predict …` and does with it what `cli` does: run, build or only parse; a run
    has a callback that writes the resolved configuration, `save_config`.

    Raises:
        UserError: what is wrong with the command line.
    """
    argv = spelled_out(with_shipped_configs(argv))
    check_config_files(argv)
    # of callbacks such as StochasticWeightAveraging and Timer, so that a run's saved configuration says it
    register_type(torch.device, str, fail_already_registered=False)
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
    for library in (modules, datamodules):  # `--model SFTModule`: the parser knows classes that are imported
        for name in library.__all__:
            getattr(library, name)
    with defaults_kept_to_their_class():
        return cli(
            model_class=Stage,
            datamodule_class=TextDataModule,
            trainer_class=Trainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=ConfigParser,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=save_config,
            save_config_kwargs={"save_to_log_dir": False},
            args=with_listed_paths(argv),
        )


def parse_data(argv: list[str]) -> TextDataModule:
    """The data module that a command line of a stage describes; what it names has not been read yet."""
    hush()
    return parse(argv, BuildOnly).datamodule
