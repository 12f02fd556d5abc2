"""Text: sources, mixing, packing, templates, collation; one LightningDataModule for each kind of data."""

from datamodules.corpus import MixedCorpusData, Source
from datamodules.instruction import InstructionData
from datamodules.preference import PreferenceData
from datamodules.prompts import PromptData
from datamodules.templates import ChatTemplate, InstructionTemplate

__all__ = [
    "ChatTemplate",
    "InstructionData",
    "InstructionTemplate",
    "MixedCorpusData",
    "PreferenceData",
    "PromptData",
    "Source",
]
