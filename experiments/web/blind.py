"""Names that stand for models while people compare them blind: nothing that a browser is sent tells which."""

import secrets
from collections.abc import Sequence

from experiments.web.replies import Refusal

REMEMBERED = 4096
"""names that are known at a time; the oldest are forgotten"""


class Blind:
    """Models under other names, until they are revealed. It lasts as long as the server does."""

    def __init__(self) -> None:
        self._models: dict[str, str] = {}

    def hide(self, models: Sequence[str]) -> list[str]:
        """New names of models, in an order that says nothing."""
        names = [f"hidden-{secrets.token_hex(8)}" for _ in models]
        shuffled = secrets.SystemRandom().sample(models, len(models))
        self._models |= zip(names, shuffled, strict=True)
        for oldest in list(self._models)[:-REMEMBERED]:
            del self._models[oldest]
        return names

    def model_of(self, name: str) -> str:
        """The model that a name stands for; the name itself where it stands for none."""
        return self._models.get(name, name)

    def reveal(self, names: Sequence[str]) -> list[str]:
        """The models that names stand for.

        Raises:
            Refusal: one is none of these names, of a server that has ended say.
        """
        if not all(name in self._models for name in names):
            raise Refusal(
                "which model is which is no longer known: the server was started anew", 404, param="names"
            )
        return [self._models[name] for name in names]
