"""Who is answered when, counted in rounds of the engine, which do not depend on what else a machine does."""

import heapq
import threading

import pytest

from experiments.chat import engine as chat
from experiments.chat.engine import Engine, Request, Settings
from experiments.chat.thread import EngineThread
from experiments.evaluation.engine import Model
from tests.serving import random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_tokenizer, tiny_config):
    folder = tmp_path_factory.mktemp("order") / "model"
    model = Model.load(random_model(folder, tiny_tokenizer, tiny_config), "model")
    model.stops = []  # a reply is as long as it is asked for
    return model


@pytest.mark.parametrize("together", [1, 3, 8])
def test_replies_begin_in_the_order_asked_as_soon_as_there_is_room(model, together):
    lengths = [1 + (7 * n) % 11 for n in range(30)]
    engine, begun, now = Engine(together), {}, 0
    for number, length in enumerate(lengths):

        def tell(piece, number=number):
            if piece.written:
                begun.setdefault(number, now)

        engine.submit([Request(model, [5, 6, 7], Settings(length, 0.0), tell=tell)])
    while engine.busy:
        engine.advance()
        now += 1
    # the rounds in which places are free again, taken by one after the other
    free, expected = [0] * together, []
    for length in lengths:
        start = heapq.heappop(free)
        expected.append(start)
        heapq.heappush(free, start + length)
    assert [begun[number] for number in range(len(lengths))] == expected
    assert now == max(free)


def test_a_round_reads_no_more_than_its_share_of_prompts_padding_and_all(model, monkeypatch):
    monkeypatch.setattr(chat, "PREFILL", 60)
    read, next_logits = [], model.network.next_logits

    def counted(ids, *others):
        if ids.shape[1] > 1:
            read.append(tuple(ids.shape))
        return next_logits(ids, *others)

    monkeypatch.setattr(model.network, "next_logits", counted, raising=False)
    engine = Engine()
    requests = [Request(model, [5] * size, Settings(8, 0.0)) for size in (5, 6, 50, 5, 4, 4, 70, 3, 3)]
    requests[4].cancelled = True
    for request in requests:
        engine.submit([request])
    while engine.busy:
        engine.advance()
    # by hand: 2 × 6, then 50 alone, 2 × 5, one that is too long alone, 2 × 3
    assert read == [(2, 6), (1, 50), (2, 5), (1, 70), (2, 3)]


def test_what_many_ask_at_once_is_computed_before_the_next_round(model):
    rounds, gate = 0, threading.Event()

    class Counted(Engine):
        def advance(self):
            nonlocal rounds
            super().advance()
            rounds += 1

    with EngineThread(Counted()) as thread:
        thread.call(gate.wait)
        thread.submit([Request(model, [5, 6], Settings(60, 0.0))])
        asked = [thread.call(lambda: rounds) for _ in range(20)]
        gate.set()
        assert len({each.result(60) for each in asked}) == 1
