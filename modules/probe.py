"""Whether a network computes here what it would compute alone, found by comparing before it is trained.

A probe-size copy with random weights is run as the stages run it (padded, several documents in a row, with
a shared prefix, at a temperature, decoding) and compared with the logits of the plain network on each
document by itself. The first route that is exact is taken; a network for which none is exact is refused.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)

from modules.backbone import LanguageModel, ScalarModel
from modules.documents import SHORTEST_PREFIX, Route
from modules.errors import UserError
from modules.hf_config import in_a_line, new_config, saved_config
from modules.probe_config import VOCABULARY, WINDOW, as_a_copy, config_of, fields_of, small_configs
from modules.probe_sizes import check_sizes
from modules.specs import NetworkSpec

ROUTES = [Route(rows, head) for rows in ("flat", "documents") for head in ("linear", "own")]
TOLERANCE = 1e-4
"""nats: sums in fp32 in another order differ by less than 3e-5 for each of transformers' types; the smallest
fault among them, a cache that reads a little of its padding, is 2e-4, a window or a bias left out 1e-2"""
LARGEST = 30_000_000  # parameters of a network that is probed
TEMPERATURE = 0.5
FIRST_ID = 10  # special ids are below
PREFIX = SHORTEST_PREFIX + 2  # tokens that the first documents have in common
TAILS, OTHERS = (5, 7), (13, 1, 2 * WINDOW + 1)  # tokens of the documents


class Difference(NamedTuple):
    """How far a network is from what it would compute alone."""

    nats: float
    situation: str


def language_model(model: PreTrainedModel, fp32_head: bool = False) -> LanguageModel:
    """A network with its loss, by the route on which it is exact; the run's log says which.

    Raises:
        UserError: there is none.
    """
    route = probe(model.config)
    _tell(model.config.model_type, f"{route.rows} rows, {route.head} head, {route.decoding} decoding")
    return LanguageModel(model, fp32_head, route)


def scalar_model(model: PreTrainedModel, offset: float = 0.0) -> ScalarModel:
    """The same for a network with a scalar head."""
    route = probe(model.config, scalar=True)
    _tell(model.config.model_type, f"{route.rows} rows, scalar head")
    return ScalarModel(model, offset, route)


@lru_cache
def _tell(model_type: str, way: str) -> None:
    rank_zero_info(f"`{model_type}` is exact here with {way}")


def network_errors(specs: Iterable[NetworkSpec]) -> list[str]:
    """Which of a stage's networks cannot be computed exactly, a line each; what else is wrong with their
    configs is told where they are read."""
    errors = []
    for spec in specs:
        where = f"model.{spec.argument}"
        try:
            if isinstance(spec.source, str):
                config = saved_config(spec.source, where)
            else:
                with as_a_copy():
                    config = new_config(spec.source, VOCABULARY, where)
        except (OSError, UserError):
            continue
        try:
            probe(config, spec.head == "scalar")
        except UserError as error:
            errors.append(f"{where}: {error}")
    return list(dict.fromkeys(errors))


def probe(config: PretrainedConfig, scalar: bool = False) -> Route:
    """The way to compute a network so that it computes what it would alone.

    Args:
        config: of a causal language model.
        scalar: probe the network with a scalar head (a sequence classifier) instead.

    Raises:
        UserError: there is no such way: the network and the difference.
    """
    return _probe(fields_of(config), scalar)


@cache
def _probe(fields: str, scalar: bool) -> Route:
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad(), as_a_copy():
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        try:
            config = config_of(fields)
            small = small_network(config, scalar)
            route = _exact_route(small, documents(), scalar)
            check_sizes(config, small.config, auto_class_of(scalar))
            return route
        finally:
            torch.set_default_dtype(dtype)


def auto_class_of(scalar: bool) -> Any:
    """transformers' maker of networks, with a scalar head or of language."""
    return AutoModelForSequenceClassification if scalar else AutoModelForCausalLM


def documents() -> list[Tensor]:
    """(T,) int64 each: two that begin with the same tokens, and others, longer than any window or short."""
    prefix, *rest = (torch.randint(FIRST_ID, VOCABULARY, (size,)) for size in (PREFIX, *TAILS, *OTHERS))
    return [torch.cat([prefix, tail]) for tail in rest[: len(TAILS)]] + rest[len(TAILS) :]


def small_network(config: PretrainedConfig, scalar: bool = False) -> PreTrainedModel:
    """A probe-size network with random weights that make a difference, in eval mode.

    Raises:
        UserError: transformers cannot build or run it, or not as a causal language model.
    """
    auto_class = auto_class_of(scalar)
    if scalar and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"transformers has no sequence classifier for `{config.model_type}`, with which rewards and "
            "values are read: give another network"
        )
    problem: Exception | None = None
    for make in small_configs(config):
        try:
            small = make()
            if scalar:
                small.num_labels = 1
            with torch.device("meta"):
                meta = auto_class.from_config(small)
            if sum(parameter.numel() for parameter in meta.parameters()) > LARGEST:
                continue
            model = auto_class.from_config(small, dtype=torch.float32).eval()
            randomize(model)
            model(input_ids=torch.arange(FIRST_ID, FIRST_ID + 2 * WINDOW)[None], use_cache=False)
        except Exception as error:  # whatever transformers raises on a network it cannot run
            problem = problem or error
            continue
        if scalar or type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            return model
        raise UserError(
            f"transformers takes the text part of `{config.model_type}` alone, which it could not load again "
            f"as `{model.config.model_type}`: give another network"
        )
    reason = "it cannot be made small" if problem is None else in_a_line(problem)
    kind = "sequence classifier" if scalar else "causal language model"
    raise UserError(
        f"transformers cannot run `{config.model_type}` as a {kind} from this config: {reason}"
    ) from problem


def randomize(model: PreTrainedModel) -> None:
    """Weights with which every part of a network shows in its logits: zero biases and equal norms hide
    faults, and so does an initialisation that is near zero."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.6 / math.sqrt(parameter.shape[-1]))
        else:
            parameter.add_(0.2 * torch.randn_like(parameter))


def _exact_route(model: PreTrainedModel, texts: list[Tensor], scalar: bool) -> Route:
    name, plain = model.config.model_type, [alone(model, ids, scalar) for ids in texts]
    if scalar:
        head = getattr(model, "score", None)
        if not isinstance(head, torch.nn.Linear) or head.bias is not None:
            raise UserError(
                f"the sequence classifier that transformers has for `{name}` has no head that is one linear "
                "map without a bias, with which rewards and values are read: give another network"
            )
        routes = [route for route in ROUTES if route.head == "linear"]
    else:
        _check_causal(model, texts[0], plain[0])
        routes = ROUTES
    closest = Difference(math.inf, "anywhere")
    for route in routes:
        difference = compare(model, route, texts, plain, scalar)
        if difference is None:
            return route if scalar else _with_decoding(model, route, texts, plain)
        closest = min(closest, difference)
    raise UserError(
        f"`{name}` does not compute here what it would alone: {closest.nats:.2g} nats off "
        f"{closest.situation}: give another network"
    )


def alone(model: PreTrainedModel, ids: Tensor, scalar: bool) -> Tensor:
    """What the plain network gives for one document: (T, V) logits, or (T,) values, the value at t being that
    of the tokens up to it; NaN at most t, since each takes a forward."""
    if not scalar:
        return model(input_ids=ids[None], use_cache=False).logits[0].float()
    values = torch.full((len(ids),), math.nan)
    for t in {*range(0, len(ids), 5), len(ids) - 1}:
        values[t] = model(input_ids=ids[None, : t + 1], use_cache=False).logits.float()
    return values


def _check_causal(model: PreTrainedModel, ids: Tensor, logits: Tensor) -> None:
    kept = len(ids) - 3
    change = float((alone(model, ids[:kept], False) - logits[:kept]).abs().max())
    if not change < TOLERANCE:
        encodes = getattr(model.config, "is_decoder", True) is False
        hint = "set `is_decoder: true`" if encodes else "give another network"
        raise UserError(
            f"`{model.config.model_type}` is no causal language model with this config: its logits "
            f"change by {change:.2g} with the tokens that come after: {hint}"
        )


def compare(
    model: PreTrainedModel, route: Route, texts: list[Tensor], plain: list[Tensor], scalar: bool = False
) -> Difference | None:
    """The first situation in which a network is not what it is alone, or None.

    Args:
        model: the plain network, which stays as it is.
        route: how it is computed.
        texts: (T,) ids of the documents.
        plain: what it gives for each alone.
        scalar: whether it has a scalar head.
    """
    own = copy.deepcopy(model)
    try:
        network = ScalarModel(own, 0.0, route) if scalar else LanguageModel(own, False, route)
        for situation, batch, temperature in situations(texts):
            ids, positions, owners, order, groups = batch
            if scalar:
                computed = network(ids, positions, owners, groups)[owners >= 0]
                wanted = torch.cat([plain[i] for i in order])
                computed, wanted = computed[~wanted.isnan()], wanted[~wanted.isnan()]
            else:
                labels = torch.where((owners >= 0) & (positions > 0), ids, -100)
                losses = network(ids, labels, positions, owners, temperature, groups)
                computed = losses[labels != -100]
                wanted = torch.cat([_losses(plain[i], texts[i], temperature) for i in order])
            nats = float((computed - wanted).abs().max())
            if not nats < TOLERANCE:  # NaN is no smaller
                return Difference(nats, situation)
    except Exception as error:  # a route that a network does not take
        return Difference(math.inf, f"({in_a_line(error)})")
    return None


def _losses(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(logits[:-1] / temperature, ids[1:], reduction="none")


Batch = tuple[Tensor, Tensor, Tensor, list[int], Tensor | None]
"""ids, positions, document ids (B, T), the documents in the rows' order, and their groups"""


def situations(texts: list[Tensor]) -> Iterator[tuple[str, Batch, float]]:
    """Batches of documents as stages make them, and the temperature of each."""
    numbers = list(range(len(texts)))
    yield "on a document alone", rows_of(texts, [[numbers[0]]]), 1.0
    yield "on padded rows", rows_of(texts, [[number] for number in numbers]), 1.0
    several = [[2, 0, 3], [4, 1], *([number] for number in numbers[5:])]
    yield "on rows of several documents", rows_of(texts, several), 1.0
    yield f"at temperature {TEMPERATURE}", rows_of(texts, several), TEMPERATURE
    groups = torch.tensor([0, 0, *range(1, len(texts) - 1)])
    yield "on documents with a shared prefix", (*rows_of(texts, [[0, 1], numbers[2:]])[:4], groups), 1.0


def rows_of(texts: list[Tensor], rows: list[list[int]]) -> Batch:
    """Documents laid out in rows, padded on the right."""
    width = max(sum(len(texts[i]) for i in row) for row in rows) + 1
    ids, positions = torch.zeros(2, len(rows), width, dtype=torch.int64)
    owners = torch.full((len(rows), width), -1)
    for row, members in enumerate(rows):
        start = 0
        for number, i in enumerate(members):
            place = slice(start, start := start + len(texts[i]))
            ids[row, place], positions[row, place] = texts[i], torch.arange(len(texts[i]))
            owners[row, place] = number
    return ids, positions, owners, [i for row in rows for i in row], None


def _with_decoding(model: PreTrainedModel, route: Route, texts: list[Tensor], plain: list[Tensor]) -> Route:
    closest = Difference(math.inf, "")
    for decoding in ("cached", "recomputed"):
        route = route._replace(decoding=decoding)
        difference = compare_decoding(model, route, texts, plain)
        if difference is None:
            return route
        closest = min(closest, difference)
    raise UserError(
        f"`{model.config.model_type}` decodes other than it computes alone: {closest.nats:.2g} off "
        f"{closest.situation}: give another network"
    )


def compare_decoding(
    model: PreTrainedModel, route: Route, texts: list[Tensor], plain: list[Tensor], steps: int = 2 * WINDOW
) -> Difference | None:
    """How far the logits are that decoding gives after each token of left-padded prompts, or None."""
    long = [i for i, ids in enumerate(texts) if len(ids) > steps]
    prompts = [texts[i][: len(texts[i]) - steps] for i in long]
    width = max(map(len, prompts))
    ids = torch.stack([F.pad(prompt, (width - len(prompt), 0)) for prompt in prompts])
    seen = torch.stack([F.pad(torch.ones_like(p), (width - len(p), 0)) for p in prompts])
    try:
        network = LanguageModel(copy.deepcopy(model), False, route)
        cache = DynamicCache(config=network.model.config) if route.decoding == "cached" else None
        new = width
        for step in range(steps):
            positions = (seen.cumsum(1) - 1).clamp(min=0)
            taken = slice(None) if cache is None else slice(ids.shape[1] - new, None)
            logits = network.next_logits(ids[:, taken], seen, positions[:, taken], cache)
            places = [len(prompt) - 1 + step for prompt in prompts]
            wanted = torch.stack([plain[i][place] for i, place in zip(long, places, strict=True)])
            off = float((logits.float() - wanted).abs().max())
            if not off < TOLERANCE:
                return Difference(off, f"at step {step} of {route.decoding} decoding")
            chosen = torch.stack([texts[i][place + 1] for i, place in zip(long, places, strict=True)])
            ids, seen = torch.cat([ids, chosen[:, None]], 1), F.pad(seen, (0, 1), value=1)
            new = 1
    except Exception as error:
        return Difference(math.inf, f"({in_a_line(error)})")
    return None
