"""Which stage a file's rows are for, and what that stage needs beside them."""

from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import UserError as DataError
from datamodules.layouts.reader import Kind
from experiments.cli.user_errors import UserError

STAGES: dict[Kind, tuple[str, ...]] = {
    "documents": ("pretrain",),
    "instructions": ("sft", "ppo"),
    "preferences": ("reward", "ppo"),
    "prompts": ("ppo",),
    "tokens": ("sft",),
}
"""kind of data → the stages that read it, the one that fits it best first"""


class Models(NamedTuple):
    """The models that a command line names."""

    model: str | None
    """what SFT and the reward model start from, and what pretraining goes on with"""
    actor: str | None
    reward: str | None

    def first(self, stage: str) -> str | None:
        """The one that reads and writes text in a stage."""
        return (self.actor or self.model) if stage == "ppo" else self.model


def stage_for(kind: Kind, layout: str, asked: str | None) -> str:
    """The stage that a kind of data is for: the one `asked` for, where it reads such data.

    Raises:
        UserError: it does not.
    """
    stages = STAGES[kind]
    if asked not in (None, *stages):
        raise UserError(f"--stage {asked} does not read {kind} ({layout}): leave it out for {stages[0]}")
    return asked or stages[0]


def check_models(stage: str, models: Models) -> None:
    """Refuses a stage without the models that it starts from.

    Raises:
        UserError: with the option that names them.
    """
    if stage == "ppo":
        given = {"actor": models.first(stage), "reward": models.reward}
        missing = [f"`--{name} DIR`" for name, path in given.items() if path is None]
        if missing:
            raise UserError(
                "the data are prompts, for PPO, which needs an actor and a reward model: give "
                f"{' and '.join(missing)}, the `export` of SFT and of the reward model"
            )
    elif stage != "pretrain" and models.model is None:
        name = "supervised fine-tuning" if stage == "sft" else "the reward model"
        raise UserError(
            f"the data are for {name}, which starts from a model: give `--model DIR`, a Hugging Face "
            "directory such as the `export` of pretraining"
        )


def config_of(path: str, option: str) -> Any:
    """The Hugging Face config of a model.

    Raises:
        UserError: there is none.
    """
    from modules.hf_config import saved_config

    try:
        return saved_config(path, option, local_files_only=True).get_text_config()
    except OSError as error:
        raise UserError(
            f"{option}: {path} is no directory of a model, nor is it in the local hub cache"
        ) from error


def tokenizer_of(path: str, option: str) -> Any:
    """The tokenizer of a model.

    Raises:
        UserError: it has none that can be read.
    """
    from datamodules.rendering.tokenizer import load_tokenizer

    try:
        return load_tokenizer(path)
    except DataError as error:
        raise UserError(str(error).replace("data.tokenizer", option, 1)) from error


def with_chat_template(tokenizer: Any, folder: Path) -> None:
    """Saves a tokenizer that has no chat template with Trivium's own, `### Instruction:`; its tokens stay the
    same."""
    from experiments.commands.tokenizer import CHAT_TEMPLATE
    from modules.hf_tokenizer import save_tokenizer

    tokenizer.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True)
    save_tokenizer(tokenizer, folder)
