"""What a server has loaded: language models by name, and who judges their replies (reward models, a
reference, critics)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli.user_errors import UserError
from experiments.evaluation.command import named_models
from experiments.evaluation.engine import Model, check_path, tokenizer_of
from experiments.web.judge import Critic, Scorer
from modules.hf_config import saved_config
from modules.hf_load import parent_problem, read_provenance
from modules.vocabulary import difference


class Hosted(NamedTuple):
    """Everything that a server has loaded."""

    models: dict[str, Model]
    critics: dict[str, Critic]
    """of the models that a PPO run has exported with one"""
    scorers: dict[str, Scorer]
    reference: Model | None


def check(given: Sequence[str], reference: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Language models and reward models of a command line, name → directory; nothing is loaded.

    Raises:
        UserError: a directory is neither, or there is no language model.
    """
    named = named_models(given, "serve")
    scorers = {name: path for name, path in named.items() if _is_reward_model(path)}
    models = {name: path for name, path in named.items() if name not in scorers}
    for path in [*models.values(), *([reference] if reference else [])]:
        check_path(path, "serve")
        tokenizer_of(path, "serve")
    if not models:
        raise UserError("serve: there is no language model to talk to, only a reward model: give one besides")
    return models, scorers


def load(models: dict[str, str], scorers: dict[str, str], reference: str | None) -> Hosted:
    """Loads them; a reference that is one of the models is not loaded twice.

    Raises:
        UserError: one cannot be loaded, or the reference has another vocabulary.
    """
    loaded = {name: Model.load(path, name, "serve") for name, path in models.items()}
    critics = {
        name: Critic(str(folder))
        for name, path in models.items()
        if (folder := Path(path) / "critic").is_dir()
    }
    scored = {name: Scorer(path) for name, path in scorers.items()}
    known = next((loaded[name] for name, path in models.items() if path == reference), None)
    judge = known or (Model.load(reference, "reference", "serve") if reference else None)
    for model in loaded.values() if judge else ():
        assert judge is not None
        if problem := difference(judge.tokenizer, model.tokenizer):
            raise UserError(
                f"--reference {reference} has another vocabulary than {model.name}: {problem}: give one of "
                "the same tokenizer"
            )
    return Hosted(loaded, critics, scored, judge)


def _is_reward_model(path: str) -> bool:
    if read_provenance(path).get("stage") == "reward":
        if problem := parent_problem("directory", path, ("reward",)):
            raise UserError(problem.replace("model.directory:", "serve:", 1))
        return True
    if parent_problem("directory", path, ("pretrain", "sft", "ppo")):
        return False  # what it is instead is told where models are checked
    config: Any = saved_config(path, "serve", local_files_only=True)
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
