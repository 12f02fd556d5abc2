"""A report as one page that needs nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context

from experiments.atomic import write_text
from experiments.html.charts import INK, MUTED, RULE, SERIES, STYLE, Inline, number, row_axes
from experiments.html.pages import page_template
from experiments.web.rank.report_words import duration, interval, pair_verdict, place_verdict


def write_page(report: Mapping[str, Any], file: Path) -> None:
    """Writes the page."""
    words = {"pair_verdict": pair_verdict, "place_verdict": place_verdict}
    file_of_words = Path(__file__).with_name("report.html.j2")
    template = page_template(file_of_words, interval=interval, duration=duration, **words)
    write_text(file, template.render(report=report, charts=Charts()))


class Charts(Inline):
    """Draws the page's charts."""

    def models(self, models: Mapping[str, Mapping[str, Any]]) -> Markup:
        """The chance to win of each model, with its interval."""
        rows = {name: model["chance"] for name, model in models.items() if "chance" in model}
        return self._rows(rows, "Chance to be preferred to another model", "where the two are not tied")

    def places(self, position: Mapping[str, Any]) -> Markup:
        """The mean rank by place on the page."""
        ranks = position["mean_rank"]
        rows = {f"place {n}": {"value": rank, "low": rank, "high": rank} for n, rank in enumerate(ranks, 1)}
        return self._rows(rows, "Mean rank by place on the page", "0 = best, 1 = worst")

    def _rows(self, rows: Mapping[str, Mapping[str, float]], title: str, unit: str) -> Markup:
        with rc_context(STYLE):
            axes = row_axes(list(rows), 40, unit)
            axes.axvline(0.5, color=RULE)
            for place, row in enumerate(rows.values()):
                axes.plot([row["low"], row["high"]], [place, place], color=MUTED)
                axes.plot([row["value"]], [place], "o", color=SERIES[0])
                axes.annotate(
                    number(row["value"], 2), (1, place), (6, 0), ("axes fraction", "data"), "offset points",
                    color=INK, va="center",
                )  # fmt: skip
            axes.set_xlim(-0.02, 1.02)
        return self.inline(
            axes, title, unit, [f"{name} {number(row['value'], 2)}" for name, row in rows.items()]
        )
