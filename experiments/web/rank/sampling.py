"""K replies to each prompt from one or several models, kept in a file as they are sampled: what has been
sampled is not sampled again, and every reply can be sampled again from its seed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.rendering.segments import Row
from experiments.cli.user_errors import UserError
from experiments.web.rank.appended import Appended
from experiments.web.rank.item import Item, digest, distinct, seed_of

BEGINS = '{"asked": "'
TOGETHER = 16
"""prompts whose replies are sampled before they are kept"""
Draws = dict[tuple[str, int], str]
"""digest of a prompt and number of a reply → its text"""


class Sampling(NamedTuple):
    """How replies are sampled."""

    models: Mapping[str, str]
    """name → Hugging Face directory; reply n of all comes from model n, in turn"""
    k: int
    """replies to a prompt"""
    seed: int
    temperature: float
    """0 takes the likeliest token every time"""
    max_new_tokens: int
    prefix: str
    """the given start of replies to prompts that give none"""

    def settings(self) -> dict[str, Any]:
        """What the replies depend on, prompts apart; a model is known by its content."""
        from experiments.evaluation.engine import digest as model_digest

        digests = {name: model_digest(path)[:16] for name, path in self.models.items()}
        return {**self._asdict(), "models": digests}


def sample(prompts: Sequence[Row], how: Sampling, file: Path, advance: Callable[[int], Any]) -> list[Item]:
    """The prompts with K replies each; those missing in `file` are sampled and kept in it.

    Args:
        prompts: as `read_prompts` gives them.
        how: the settings.
        file: of `Appended` lines.
        advance: told how many prompts have been answered.

    Returns:
        items in the order of the prompts, those left out whose replies are all the same.

    Raises:
        UserError: the file was sampled otherwise, or a model cannot answer.
    """
    settings = how.settings()
    kept = Appended(file, BEGINS, _problem, "--output")
    try:
        for line in kept.lines:
            _check(line["sampling"], settings, file)
        known = {line["asked"]: _item(line) for line in kept.lines}
        wanted = {_asked(prompt, how): (number, prompt) for number, prompt in enumerate(prompts)}
        missing = {asked: place for asked, place in wanted.items() if asked not in known}
        advance(len(wanted) - len(missing))
        models: dict[str, Any] = {}
        for chunk in _chunks(list(missing.items()), TOGETHER):
            for asked, item in _answered(chunk, how, models):
                kept.append(_line(asked, item, settings))
                known[asked] = item
            advance(len(chunk))
        return distinct([known[asked] for asked in wanted])
    except OSError as error:
        raise UserError(f"--output: {file} cannot be written: {error.strerror}") from error
    finally:
        kept.close()


def _asked(prompt: Row, how: Sampling) -> str:
    return digest([prompt, how.prefix])


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    yield from (items[start : start + size] for start in range(0, len(items), size))


def _answered(
    chunk: Sequence[tuple[str, tuple[int, Row]]], how: Sampling, models: dict[str, Any]
) -> Iterator[tuple[str, Item]]:
    """Prompts with their replies; `models` holds those that have been loaded."""
    names = list(how.models)
    turns = {
        asked: [names[(number * how.k + n) % len(names)] for n in range(how.k)]
        for asked, (number, _) in chunk
    }
    texts: Draws = {}
    for name in names:
        draws = [(asked, n) for asked, _ in chunk for n in range(how.k) if turns[asked][n] == name]
        if draws:
            prompts = dict(chunk)
            rows = [_with_prefix(prompts[asked][1], how.prefix) for asked, _ in draws]
            seeds = [seed_of(how.seed, asked, n) for asked, n in draws]
            if name not in models:
                models[name] = _load(how.models[name], name)
            replies = write(models[name], rows, seeds, how.temperature, how.max_new_tokens)
            texts |= zip(draws, replies, strict=True)
    for asked, (_, prompt) in chunk:
        prefix = prompt.get("reply_prefix", how.prefix)
        written = tuple(prefix + texts[asked, n] for n in range(how.k))
        drawn = tuple(seed_of(how.seed, asked, n) for n in range(how.k))
        columns = {name: value for name, value in prompt.items() if name != "reply_prefix"}
        yield asked, Item(columns, written, tuple(turns[asked]), drawn)


def _with_prefix(prompt: Row, prefix: str) -> Row:
    return {"reply_prefix": prefix, **prompt}


def _load(path: str, name: str) -> Any:
    from experiments.evaluation.engine import Model

    try:
        return Model.load(path, name)
    except UserError as error:
        raise renamed(error) from error


def renamed(error: UserError) -> UserError:
    """What the engine refuses, in this command's name."""
    return UserError(str(error).replace("evaluate: ", "--models: ", 1))


def write(
    model: Any, rows: Sequence[Row], seeds: Sequence[int], temperature: float, max_new_tokens: int
) -> list[str]:
    """What a model replies to each row, as in `trivium chat`; what it samples is a function of the row and
    the seed, never of what is beside it.

    Raises:
        UserError: a prompt leaves no room for a reply.
    """
    from experiments.chat.engine import Engine, Piece, Request, Settings
    from experiments.chat.prompts import row_ids

    ids = [row_ids(model.tokenizer, row) for row in rows]
    if model.positions is not None and max(map(len, ids)) >= model.positions:
        raise UserError(
            f"--models: a prompt has {max(map(len, ids))} tokens, and {model.name} {model.positions} "
            "positions: leave it out"
        )
    texts = [""] * len(rows)

    def told(place: int) -> Callable[[Piece], None]:
        def tell(piece: Piece) -> None:
            texts[place] += piece.text

        return tell

    engine = Engine()
    for place, (prompt, seed) in enumerate(zip(ids, seeds, strict=True)):
        settings = Settings(max_new_tokens, temperature, seed=seed)
        engine.submit([Request(model, prompt, settings, tell=told(place))])
    while engine.busy:
        engine.advance()
    return texts


def _line(asked: str, item: Item, settings: dict[str, Any]) -> dict[str, Any]:
    """An item as `--replies` reads it; without scores, so that nobody trains on it by mistake."""
    parts = zip(item.replies, item.models, item.seeds, strict=True)
    completions = [{"response": text, "model": model, "seed": seed} for text, model, seed in parts]
    return {"asked": asked, **item.prompt, "completions": completions, "sampling": settings}


def _item(line: dict[str, Any]) -> Item:
    completions = line["completions"]
    columns = {
        name: value for name, value in line.items() if name not in ("asked", "completions", "sampling")
    }
    parts = [[completion[key] for completion in completions] for key in ("response", "model", "seed")]
    return Item(columns, *map(tuple, parts))


def _problem(line: dict[str, Any]) -> str | None:
    completions = line.get("completions")
    whole = isinstance(completions, list) and all(
        isinstance(part, dict) and {"response", "model", "seed"} <= set(part) for part in completions
    )
    return (
        None if whole and isinstance(line.get("sampling"), dict) else "`completions` or `sampling` is missing"
    )


def _check(before: dict[str, Any], now: dict[str, Any], file: Path) -> None:
    for name, value in now.items():
        was = before.get(name)
        if was != value:
            told = repr(was)
            if name == "models" and isinstance(was, dict):
                told = "other weights" if list(was) == list(value) else ", ".join(was)
            raise UserError(
                f"--{name.replace('_', '-')}: the replies in {file} were sampled with {told}: give the same, "
                "or another --output"
            )
