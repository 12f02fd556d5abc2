"""While a fit ends, the networks are where the strategy computes, though Lightning has moved them already."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

from experiments.callbacks.device import OnDevice
from tests.test_continuation import QUIET, STAGES

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")


class Moving(SingleDeviceStrategy):
    """As one of a GPU, when its work is done: its network is on another device than the strategy's."""

    def teardown(self):
        super().teardown()
        self.lightning_module._device = ELSEWHERE


class Seen(Callback):
    def on_fit_end(self, trainer, pl_module):
        self.device, self.tokens = pl_module.device, int(pl_module.tokens_seen)


@pytest.mark.parametrize("present", [True, False])
def test_the_networks_are_back_until_the_fit_has_ended(
    tiny_files, tiny_tokenizer, tiny_config, tiny_stages, present
):
    stage, data = STAGES["sft"][0](tiny_files, tiny_tokenizer, tiny_config, tiny_stages)
    seen = Seen()
    callbacks = [*([OnDevice()] if present else []), seen]
    options = {**QUIET, "max_steps": 4, "callbacks": callbacks, "strategy": Moving(device=CPU)}
    L.Trainer(**options).fit(stage, data)
    assert seen.device == (CPU if present else ELSEWHERE)
    stage._device = ELSEWHERE  # the count of all ranks is asked for where collectives work, all the same
    assert stage.total_tokens() == seen.tokens > 0
