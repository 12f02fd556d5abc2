"""What the three libraries promise each other without importing each other. Nothing here runs: mypy reads it,
and an assignment that does not fit is an error of `make check`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules import PreferenceData
    from datamodules.base import TextDataModule
    from modules.backbone import LanguageModel, ScalarModel
    from modules.sharding import Sharding, Unsharded
    from modules.training_data import RankedData, TrainingData
    from strategies.fsdp2 import Shardable, Sharded
    from strategies.zero import ZeRO

    def what_a_stage_asks_of_a_strategy(alone: Unsharded, fsdp2: Sharded, zero: ZeRO) -> list[Sharding]:
        return [alone, fsdp2, zero]

    def what_a_strategy_asks_of_a_network(language: LanguageModel, scalar: ScalarModel) -> list[Shardable]:
        return [language, scalar]

    def what_a_stage_reads_of_its_data(any_kind: TextDataModule) -> TrainingData:
        return any_kind

    def what_the_reward_model_reads_of_its_data(preferences: PreferenceData) -> RankedData:
        return preferences
