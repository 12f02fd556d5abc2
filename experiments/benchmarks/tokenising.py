"""Speed of filling the token cache, beside a bare `encode_batch` loop over the same texts.

    python -m experiments.benchmarks.tokenising --tokenizer runs/quickstart/tokenizer FILE…

Both run in turn, several times, in one process with all cores; prints a line of JSON with megabytes of text a
second of each and the median of the pairwise ratios (1 = as fast as the bare loop, which keeps nothing).
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 1000


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="JSON lines with `text`")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    from datamodules.rendering.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(options.tokenizer)
    lines = [line for file in options.files for line in Path(file).read_text("utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in lines]
    size = sum(len(text.encode()) for text in texts) / 1e6
    bare, cached = [], []
    for _ in range(options.runs):
        bare.append(size / bare_seconds(tokenizer, texts))
        cached.append(size / cache_seconds(tokenizer, options.files))
    result = {
        "megabytes": round(size, 1),
        "bare_mb_per_second": round(statistics.median(bare), 2),
        "cache_mb_per_second": round(statistics.median(cached), 2),
        "ratio": round(statistics.median(c / b for c, b in zip(cached, bare, strict=True)), 3),
    }
    print(json.dumps(result))


def bare_seconds(tokenizer: Any, texts: list[str]) -> float:
    """Texts in memory to encodings that are thrown away."""
    start = time.perf_counter()
    for first in range(0, len(texts), BATCH):
        tokenizer.backend_tokenizer.encode_batch(texts[first : first + BATCH], add_special_tokens=False)
    return time.perf_counter() - start


def cache_seconds(tokenizer: Any, files: list[str]) -> float:
    """JSON lines on the disk to a token cache on the disk."""
    from datamodules.caching.token_cache import TokenCache
    from datamodules.corpus import DocumentEncoder

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIVIUM_CACHE"] = folder
        start = time.perf_counter()
        TokenCache(files, "corpus", DocumentEncoder(tokenizer, "text")).write(strict=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
