"""Text: sources, mixing, packing, templates, collation; one LightningDataModule for each kind of data.

Names are loaded when they are asked for: planning a mixture needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.batch_view import show as show
    from datamodules.corpus import MixedCorpusData as MixedCorpusData
    from datamodules.instruction import InstructionData as InstructionData
    from datamodules.instruction import InstructionSource as InstructionSource
    from datamodules.instruction import Policies as Policies
    from datamodules.preference import PreferenceData as PreferenceData
    from datamodules.prompts import PromptData as PromptData
    from datamodules.rendering.chat_template import ChatTemplate as ChatTemplate
    from datamodules.rendering.templates import InstructionTemplate as InstructionTemplate
    from datamodules.rendering.templates import MixedTemplates as MixedTemplates
    from datamodules.sampling.mixture import Source as Source
    from datamodules.tokens import TokenData as TokenData

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
    "TokenData": "tokens",
    "show": "batch_view",
}

__all__ = [*FILES]


def __getattr__(name: str) -> Any:
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *FILES]
