"""The page on which people rank, and what it asks of the server."""

import unicodedata
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, BeforeValidator, Field

from experiments.web.access import Access
from experiments.web.page import Page
from experiments.web.rank.answer import Kind
from experiments.web.rank.session import Already, Session
from experiments.web.replies import Refusal
from experiments.web.server import create_app

NAME, REMARK, DAY = 60, 2000, 86_400.0  # signs of a name and a remark; seconds of a prompt, at most


def clean_name(name: Any) -> Any:
    """A person's name without what makes two names of one: spaces, and several ways to write a letter."""
    return " ".join(unicodedata.normalize("NFC", name).split()) if isinstance(name, str) else name


Person = Annotated[str, BeforeValidator(clean_name), Field(min_length=1, max_length=NAME)]


class Asks(BaseModel):
    """Whoever asks for a prompt, or takes an answer back."""

    person: Person


class Answers(Asks):
    """An answer."""

    item: str
    answer: Kind
    levels: list[Annotated[int, Field(ge=1)]] = []
    """of a ranking: each card's, in the order of display; 1 = best, equal = tied"""
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    remark: Annotated[str, Field(max_length=REMARK)] = ""


def rank_app(session: Session, access: Access) -> FastAPI:
    """The application around a session."""
    app = create_app(access)
    page = Page("rank", folder=Path(__file__).parent)

    @app.get("/")
    def index() -> HTMLResponse:
        return page.response()

    @app.post("/rank/next")
    def following(asks: Asks) -> dict[str, Any]:
        return view(session, asks.person)

    @app.post("/rank/answer")
    def answer(given: Answers) -> dict[str, Any]:
        item = session.items.get(given.item)
        if item is None:
            raise Refusal("this prompt is not one of this server's: load the page again", 409, "item")
        if given.answer == "ranked" and len(given.levels) != len(item.cards):
            raise Refusal(f"{len(item.cards)} replies but {len(given.levels)} levels", 400, "levels")
        try:
            seconds = min(given.seconds, DAY)
            session.answer(given.person, item.id, given.answer, given.levels, seconds, given.remark)
        except Already:  # in another window, or an answer whose receipt was lost on the way
            return {**view(session, given.person), "kept": False}
        except OSError as error:
            raise not_kept(error) from error
        return {**view(session, given.person), "kept": True}

    @app.post("/rank/undo")
    def undo(asks: Asks) -> dict[str, Any]:
        try:
            done = session.undo(asks.person)
        except OSError as error:
            raise not_kept(error) from error
        return {**view(session, asks.person), "undone": done}

    return app


def not_kept(error: OSError) -> Refusal:
    """What a full disk says."""
    return Refusal(
        f"it could not be written to the disk ({error.strerror or error}): try again", 507, code="not_kept"
    )


def view(session: Session, person: str) -> dict[str, Any]:
    """What a person sees next: nothing in it tells which model wrote a reply."""
    shown = session.next(person)
    answer: dict[str, Any] = {"person": person, "progress": session.progress(person)._asdict(), "item": None}
    if shown is None:
        return answer
    return answer | {
        "item": shown.item.id,
        "turns": shown.item.turns,
        "replies": [shown.item.replies[reply] for reply in shown.shown],
        "levels": shown.levels,
        "remark": shown.remark,
    }
