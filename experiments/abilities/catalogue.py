"""Which experiments there are, and the models that each wants trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from experiments.abilities.ability import Ability, Arm
    from experiments.abilities.lexicon import Language

NAMES = {
    "emergence": "the same task and training: small models cannot, large ones can",
    "in-context": "more examples in the prompt, better answers, no training",
    "instructions": "instructions never trained on, once enough different ones were",
    "chain-of-thought": "what cannot be answered at once can be answered in steps",
    "retrieval": "the right passage in the prompt against made-up answers",
    "restriction": "a prompt that asks for the passage alone against made-up answers",
}
SEEDS, MORE_SEEDS = 3, 5


class Job(NamedTuple):
    """One model to train and to ask."""

    ability: str
    arm: str
    seed: int
    folder: Path
    cost: float
    """of its training, beside that of others"""


def by_arm(jobs: Sequence[Job]) -> dict[str, list[Path]]:
    """Arm → the folders of its seeds."""
    folders: dict[str, list[Path]] = {}
    for job in jobs:
        folders.setdefault(job.arm, []).append(job.folder)
    return folders


def made(name: str, language: "Language", **options: Any) -> "Ability":
    """The experiment of a name."""
    from experiments.abilities.chain_of_thought import ChainOfThought
    from experiments.abilities.emergence import Emergence
    from experiments.abilities.in_context import InContext
    from experiments.abilities.instructions import Instructions
    from experiments.abilities.restriction import Restriction
    from experiments.abilities.retrieval import Retrieval

    kinds = (Emergence, InContext, Instructions, ChainOfThought, Retrieval, Restriction)
    return {kind.name: kind for kind in kinds}[name](language, **options)


def jobs_of(ability: "Ability", seeds: int, folder: Path) -> list[Job]:
    """An experiment's models: all arms of the first seed, then of the next; those that need more seeds get
    five where others get three."""

    from experiments.abilities.arm import cost

    def needed(arm: "Arm") -> int:
        return -(-seeds * MORE_SEEDS // SEEDS) if arm.more_seeds and seeds > 1 else seeds

    def place(arm: str, seed: int) -> Path:
        return folder / ability.training / f"{arm} seed {seed}".replace(" = ", "").replace(" ", "-")

    arms = ability.arms()
    return [
        Job(ability.name, arm.name, seed, place(arm.name, seed), cost(ability, arm))
        for seed in range(max(map(needed, arms)))
        for arm in arms
        if seed < needed(arm)
    ]
