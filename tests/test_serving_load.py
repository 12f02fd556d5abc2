"""Many clients at once, some of whom hang up: no error, no memory kept, nobody waits out of turn."""

import statistics

from experiments.benchmarks.serving import run
from tests.serving import random_model


def test_many_clients_that_hang_up_leave_neither_errors_nor_memory(tmp_path, tiny_tokenizer, tiny_config):
    clients, requests = 12, 4
    load = run(random_model(tmp_path / "model", tiny_tokenizer, tiny_config), clients, requests)
    assert load.errors == []
    assert load.hung_up > 0
    assert load.answered + load.hung_up == clients * requests + 1
    assert load.growth < 0.05
    assert statistics.median(load.waits) < 1.5  # seconds of the server's own processor: about 0.5
