"""What a model can do, measured: tasks, the engine that asks a model, results and their comparison."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.evaluation.card import AbilityCard
    from experiments.evaluation.task import Answer, Question, Task

FILES = {"AbilityCard": "card", "Answer": "task", "Question": "task", "Task": "task"}

__all__ = ["AbilityCard", "Answer", "Question", "Task"]


def __getattr__(name: str) -> Any:  # loaded when asked for: `trivium evaluate --help` answers at once
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
