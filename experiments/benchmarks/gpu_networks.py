"""Parts of the GPU check that look at a network by itself: attention within documents, log-probs of sampling,
packed rows beside padded ones, and the speed of training steps."""

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache

from experiments.benchmarks.gpu_data import LARGE, TINY
from experiments.benchmarks.gpu_report import Report
from experiments.plan.network_sizes import sizes
from experiments.plan.work import forward_flops
from modules.backbone import LanguageModel
from modules.generation import generate, uniforms
from modules.optim import AdamW
from modules.rollout import Rollout, logprobs

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""ids, labels, positions, documents, as `LanguageModel` takes them"""
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""part of a card's name → FLOPs a second of bf16 matrix products, by the maker's data sheet (dense)"""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def attention(report: Report) -> None:
    """Losses and gradients of documents that share rows, beside those of the plain network, one by one."""
    lengths = document_lengths(8 if report.tiny else 24, 24 if report.tiny else 700)
    documents = random_documents(lengths, vocabulary(report), report.device)
    batch = rows_of(documents, 2 * max(lengths))
    for dtype, bar in (("fp32", 1e-4), ("bf16", 3e-2)):  # bf16: 8 bits, over 30 blocks
        name = f"documents in rows against each alone, {dtype}"
        with report.guarded(name):
            network, plain = LanguageModel(new_model(report)), new_model(report)
            plain.set_attn_implementation("sdpa")
            with autocast(report, dtype):
                ours = network(*batch).sum()
                alone = sum((plain_loss(plain, document) for document in documents), ours.new_zeros(()))
            ours.backward()
            alone.backward()
            report.at_most(f"{name}: loss, relative", float((ours - alone).abs() / alone), bar)
            mine, right = gradient(network), gradient(plain)
            report.at_most(f"{name}: gradient, relative", float((mine - right).norm() / right.norm()), bar)


def gradient(network: nn.Module) -> Tensor:
    """All of a network's gradients in one vector."""
    return torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None])


def sampling(report: Report) -> None:
    """Log-probs of sampled tokens as decoding with a cache had them, and as an update computes them."""
    rows, width = (3, 4) if report.tiny else (32, 64)
    prompts = random_documents(
        document_lengths(rows, 12 if report.tiny else 100), vocabulary(report), report.device
    )
    longest = max(map(len, prompts))
    ids = torch.stack([F.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    mask = torch.stack([F.pad(torch.ones_like(prompt), (longest - len(prompt), 0)) for prompt in prompts]) > 0
    ends: dict[str, Any] = {
        "stop_token_ids": (1,),
        "pad_token_id": 0,
        "vocabulary": vocabulary(report),
        "noise": uniforms(0, 0, range(rows), width).to(report.device),
    }
    for dtype in DTYPES:
        with report.guarded(dtype), torch.no_grad():
            network = LanguageModel(new_model(report), fp32_head=True).eval()
            with autocast(report, dtype):
                responses, kept = generate(network, ids, mask, width, **ends)
                joined = Rollout.sampled(ids, mask, responses, kept).joined()
                gaps = (logprobs(network, joined, width, 1.0) - decoded(network, ids, mask, responses))[kept]
            gap, bar = (gaps.abs().max(), 1e-4) if dtype == "fp32" else (gaps.abs().mean(), 2e-2)
            what = "largest" if dtype == "fp32" else "mean"
            report.at_most(f"log-probs of decoding against the update's, {dtype}: {what}", float(gap), bar)


def decoded(network: LanguageModel, ids: Tensor, mask: Tensor, responses: Tensor) -> Tensor:
    """(B, R) log-probs of given responses, token by token with a cache."""
    cache, columns = DynamicCache(config=network.model.config), []
    tokens, seen, positions = ids, mask, (mask.cumsum(1) - 1).clamp(min=0)
    for step in range(responses.shape[1]):
        logits = network.next_logits(tokens, seen.long(), positions, cache).float()
        chosen = responses[:, step : step + 1]
        columns.append(logits.log_softmax(-1).gather(1, chosen))
        tokens, positions = chosen, positions[:, -1:] + 1
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
    return torch.cat(columns, 1)


def packed(report: Report) -> None:
    """Speed and memory of packed rows beside padded ones, forward and backward in bf16; the
    micro-batches hold the same documents."""
    lengths = document_lengths(8 if report.tiny else 128, 24 if report.tiny else 1000)
    documents = random_documents(lengths, vocabulary(report), report.device)
    part = 4 if report.tiny else 32
    parts = [documents[start : start + part] for start in range(0, len(documents), part)]
    layouts = {
        "padded": [rows_of(each, None) for each in parts],
        "packed": [rows_of(each, 48 if report.tiny else 2048) for each in parts],
    }
    measured: dict[str, tuple[float, int, float]] = {}
    with report.guarded("packed and padded rows"):
        network = LanguageModel(new_model(report))
        for name, batches in layouts.items():
            losses: list[float] = []

            def step(batches: list[Batch] = batches, losses: list[float] = losses) -> None:
                losses.clear()
                for batch in batches:
                    with autocast(report, "bf16"):
                        loss = network(*batch).sum()
                    loss.backward()
                    losses.append(float(loss.detach()))
                network.zero_grad()

            seconds, peak = timed(report, step, repeats=2 if report.tiny else 5)
            measured[name] = seconds, peak, sum(losses) / sum(lengths)
            speed = f"{sum(lengths) / seconds:,.0f} tokens/s, {peak / 1e9:.2f} GB"
            report.add(f"{name} rows", speed, sum(lengths) / seconds)
        (slow, high, loss), (fast, low, other) = measured["padded"], measured["packed"]
        report.at_most("packed against padded: loss, relative", abs(loss - other) / loss, 1e-2)
        if report.device.type == "cuda":  # a CPU's clock says little of toys, and its memory nothing
            report.between("padded / packed, time", slow / fast, 0.9, 1.1, f"{slow / fast:.2f}")
            report.between("padded / packed, memory", high / low, 0.8, 1.2, f"{high / low:.2f}")


def speed(report: Report) -> None:
    """Tokens a second and the share of the card's peak that training steps reach, with and without `compile`:
    bf16 products, fp32 weights, fused AdamW, rows of 2048."""
    shapes = {"135 M": (LARGE["135 M"], 16, 2048), "1 B": (LARGE["1 B"], 4, 2048)}
    if report.tiny:
        shapes = {"tiny": (TINY, 2, 32)}
    known = [peak for name, peak in PEAKS.items() if name in card(report)]
    peak_flops = known[0] if known else gemm_flops(report)
    for name, (config, rows, length) in shapes.items():
        for compiled in (False, True):
            title = f"{name}, {rows} × {length}{', compiled' if compiled else ''}"
            with report.guarded(title):
                rate, peak, seconds = training_rate(report, config, rows, length, compiled)
                read = AutoConfig.for_model(**config)
                flops = 3 * forward_flops(sizes(read), length) * rate
                text = f"{rate:,.0f} tokens/s, MFU {flops / peak_flops:.1%}, {peak / 1e9:.1f} GB"
                report.add(title, text + (f"; compiled in {seconds:.0f} s" if compiled else ""), rate)
            gc.collect()
            torch.compiler.reset()


def training_rate(
    report: Report, config: dict, rows: int, length: int, compiled: bool
) -> tuple[float, int, float]:
    """Tokens a second, the most bytes, and the seconds of the first step."""
    network = LanguageModel(new_model(report, config))
    if compiled:
        for block in network.blocks():  # one graph serves all blocks; the rest is little
            block.compile()
    optimizer = AdamW(network.parameters(), lr=1e-4)
    documents = random_documents([length] * rows, config["vocab_size"], report.device)
    batch = rows_of(documents, None)

    def step() -> None:
        with autocast(report, "bf16"):
            loss = network(*batch).sum() / (rows * length)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    start = time.perf_counter()
    step()
    wait(report)
    first = time.perf_counter() - start
    seconds, peak = timed(report, step, repeats=2 if report.tiny else 10)
    return rows * length / seconds, peak, first


def timed(report: Report, step: Callable[[], None], repeats: int) -> tuple[float, int]:
    """Seconds of a step, the mean of some after two that are not counted, and the most bytes it held."""
    for _ in range(2):
        step()
    wait(report)
    if report.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    wait(report)
    seconds = (time.perf_counter() - start) / repeats
    return seconds, torch.cuda.max_memory_allocated() if report.device.type == "cuda" else 0


def gemm_flops(report: Report) -> float:
    """FLOPs a second of a large bf16 matrix product, for a card whose peak is not known."""
    size = 256 if report.tiny else 8192
    matrix = torch.randn(size, size, device=report.device, dtype=torch.bfloat16)

    def multiply() -> None:
        torch.mm(matrix, matrix)

    seconds, _ = timed(report, multiply, repeats=5)
    return 2 * size**3 / seconds


def card(report: Report) -> str:
    """The GPU's name; nothing where there is none."""
    return torch.cuda.get_device_name() if report.device.type == "cuda" else ""


def wait(report: Report) -> None:
    """Until the GPU has done what it was given."""
    if report.device.type == "cuda":
        torch.cuda.synchronize()


def autocast(report: Report, dtype: str) -> torch.autocast:
    """bf16 products, or none."""
    return torch.autocast(report.device.type, torch.bfloat16, enabled=dtype == "bf16")


def new_model(report: Report, config: dict | None = None) -> PreTrainedModel:
    """A random network, the same each time."""
    config = config or (TINY if report.tiny else LARGE["135 M"])
    torch.manual_seed(0)
    with report.device:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)


def vocabulary(report: Report) -> int:
    """Of `new_model`'s networks."""
    return (TINY if report.tiny else LARGE["135 M"])["vocab_size"]


def document_lengths(count: int, longest: int) -> list[int]:
    """Lengths as texts have them: most are short. From a fixed seed."""
    drawn = torch.empty(count).log_normal_(0, 0.8, generator=torch.Generator().manual_seed(0))
    return (drawn / drawn.max() * longest).long().clamp(min=2).tolist()


def random_documents(lengths: list[int], vocabulary: int, device: torch.device) -> list[Tensor]:
    """Documents of random tokens, from a fixed seed."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, vocabulary, (n,), generator=generator).to(device) for n in lengths]


def rows_of(documents: list[Tensor], length: int | None) -> Batch:
    """Documents in rows: one a row, or with `length` as many in a row as fit, in their order."""
    rows: list[list[Tensor]] = []
    for document in documents:
        fits = length is not None and rows and sum(map(len, rows[-1])) + len(document) <= length
        rows[-1].append(document) if fits else rows.append([document])
    width = max(sum(map(len, row)) for row in rows)

    def padded(values: list[list[Tensor]], fill: int) -> Tensor:
        joined = [torch.cat(row) for row in values]
        return torch.stack([F.pad(row, (0, width - len(row)), value=fill) for row in joined])

    positions = [[torch.arange(len(each), device=each.device) for each in row] for row in rows]
    numbers = [[torch.full_like(each, index) for index, each in enumerate(row)] for row in rows]
    # a document's first token has nothing to be predicted from
    labels = [[F.pad(each[1:], (1, 0), value=-100) for each in row] for row in rows]
    return padded(rows, 0), padded(labels, -100), padded(positions, 0), padded(numbers, -1)


def plain_loss(model: PreTrainedModel, document: Tensor) -> Tensor:
    """The summed loss of one document by transformers alone."""
    logits = model(input_ids=document[None], use_cache=False).logits[0, :-1]
    return F.cross_entropy(logits.float(), document[1:], reduction="sum")
