"""How anonymous memory (RssAnon: what a process holds, the page cache not counted) grows while a large corpus
is tokenised and trained on.

    python -m experiments.benchmarks.data_memory --gigabytes 2 --tokenizer runs/quickstart/tokenizer FILE…

Makes a corpus of that size by joining documents of the FILEs at random (JSON lines with `text`), tokenises
it into a fresh cache, trains a small model on it for some steps, and prints a line of JSON: growth in MB over
what the process had before it looked at the corpus, at its largest and as a slope per gigabyte of text.
"""

import argparse
import json
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRIVIUM_CACHE"] = folder
        corpus = Path(folder) / "corpus.jsonl"
        make_corpus(options.files, corpus, int(options.gigabytes * 1e9))
        print(json.dumps(measure(str(corpus), options.tokenizer, options.steps)))


def make_corpus(files: list[str], output: Path, size: int) -> None:
    """Documents of some ten texts each, until the file has `size` bytes."""
    lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in lines]
    rng = random.Random(0)
    with output.open("wb") as out:
        while out.tell() < size:
            text = "\n".join(rng.choices(texts, k=10))
            out.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")


def anonymous_megabytes() -> float:
    """RssAnon of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def measure(corpus: str, tokenizer: str, steps: int) -> dict[str, float]:
    """Tokenises and trains, watched by a thread."""
    import lightning as L

    from datamodules import MixedCorpusData, Source
    from modules import CausalLM

    def data_of(file: str) -> MixedCorpusData:
        sizes: dict[str, Any] = {"sequence_length": 256, "global_batch_size": 8, "micro_batch_size": 8}
        return MixedCorpusData(sources={"a": Source(file)}, tokenizer=tokenizer, **sizes)

    def train(data: MixedCorpusData, steps: int) -> None:
        quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        L.Trainer(max_steps=steps, **quiet).fit(CausalLM(CONFIG, warmup_steps=1), datamodule=data)

    train(data_of(_head(corpus)), steps=5)
    before, seen = anonymous_megabytes(), [(time.perf_counter(), anonymous_megabytes())]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            seen.append((time.perf_counter(), anonymous_megabytes()))

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    data = data_of(corpus)
    data.prepare_data()
    tokenised = time.perf_counter()
    train(data, steps)
    done.set()
    gigabytes = Path(corpus).stat().st_size / 1e9
    seconds, megabytes = np.array([(t - start, m) for t, m in seen if start <= t <= tokenised]).T
    progress = seconds / (tokenised - start) * gigabytes
    later = progress > 0.1 * gigabytes  # buffers and caches fill up first
    slope = np.polyfit(progress[later], megabytes[later], 1)[0]
    return {
        "gigabytes": round(gigabytes, 3),
        "tokens": data.splits["train"].blocks[0].starts[-1],
        "seconds_tokenising": round(tokenised - start, 1),
        "growth_tokenising_mb": round(float(megabytes.max()) - before, 1),
        "slope_mb_per_gigabyte": round(float(slope), 2),
        "growth_training_mb": round(max(m for t, m in seen if t > tokenised) - before, 1),
    }


def _head(corpus: str) -> str:
    """The first documents in a file of their own: imports and allocators are warm before the measurement."""
    head = Path(corpus).with_name("head.jsonl")
    with open(corpus, encoding="utf-8") as lines:
        head.write_text("".join(next(lines) for _ in range(200)), encoding="utf-8")
    return str(head)


if __name__ == "__main__":
    main()
