"""Text: sources, mixing, packing, templates, collation; one LightningDataModule for each kind of data.

Names are loaded when they are asked for: planning a mixture needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.corpus import MixedCorpusData
    from datamodules.instruction import InstructionData, InstructionSource, Policies
    from datamodules.preference import PreferenceData
    from datamodules.prompts import PromptData
    from datamodules.rendering.chat_template import ChatTemplate
    from datamodules.rendering.templates import InstructionTemplate, MixedTemplates
    from datamodules.sampling.mixture import Source

FILES = {
    "ChatTemplate": "rendering.chat_template",
    "InstructionData": "instruction",
    "InstructionSource": "instruction",
    "InstructionTemplate": "rendering.templates",
    "MixedCorpusData": "corpus",
    "MixedTemplates": "rendering.templates",
    "Policies": "instruction",
    "PreferenceData": "preference",
    "PromptData": "prompts",
    "Source": "sampling.mixture",
}

__all__ = [
    "ChatTemplate",
    "InstructionData",
    "InstructionSource",
    "InstructionTemplate",
    "MixedCorpusData",
    "MixedTemplates",
    "Policies",
    "PreferenceData",
    "PromptData",
    "Source",
]


def __getattr__(name: str) -> Any:
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *FILES]
