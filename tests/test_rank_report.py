"""What a rank file says: strengths, agreement and the place's influence, against published and hand-worked
values; and what it says to people."""

import json
from random import Random

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from experiments.cli.program import main
from experiments.web.rank.agreement import kendall_w, pair_votes
from experiments.web.rank.bradley_terry import chances, fit
from experiments.web.rank.ledger import Ledger, read
from experiments.web.rank.position import position
from experiments.web.rank.report import report_of
from experiments.web.rank.session import Session
from tests.browsing import chromium, findings, new_page
from tests.ranking import item, rank, session

EVIL = "<script>document.title='run'</script>"
# American League, 1987: each row's wins over each column (Agresti, Categorical Data Analysis, table 10.10)
BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
)


def test_strengths_are_the_published_ones():
    strengths, log_tie = fit(BASEBALL, np.zeros((7, 7)))
    # of Milwaukee to Baltimore, which is 0: the vignette of R's BradleyTerry2; the prior moves them by 1e-4
    published = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0.0]
    assert strengths - strengths[-1] == pytest.approx(published, abs=5e-4)
    assert log_tie == -np.inf


def test_two_models_with_ties_are_fitted_exactly():
    # three outcomes and two parameters: the fit reproduces the counts, so π₁/π₂ = 30/20, ν = 10/√(30·20)
    strengths, log_tie = fit(np.array([[0, 30], [20, 0]]), np.array([[0, 10], [10, 0]]))
    assert strengths[0] - strengths[1] == pytest.approx(np.log(1.5), abs=1e-4)
    assert log_tie == pytest.approx(np.log(10 / 600**0.5), abs=1e-3)
    assert chances(strengths) == pytest.approx([0.6, 0.4], abs=1e-4)


def test_a_model_that_always_wins_stays_finite():
    strengths, _ = fit(np.array([[0, 20], [0, 0]]), np.zeros((2, 2)))
    assert 3 < strengths[0] < 10
    assert chances(strengths)[0] == pytest.approx(1, abs=1e-3)
    nobody, _ = fit(np.zeros((3, 3)), np.zeros((3, 3)))
    assert nobody == pytest.approx([0, 0, 0])


CONCORDANCE = {
    # the first is the example on ProofWiki, Kendall's Coefficient of Concordance: 1/16
    "published": ([[-1, -3, -2], [-1, -2, -3], [-2, -3, -1], [-3, -1, -2]], 1 / 16),
    "of one mind": ([[3, 2, 1], [30, 20, 10]], 1.0),
    "opposite": ([[3, 2, 1], [1, 2, 3]], 0.0),
    # of one mind with ties: rank sums 3, 3, 6, S = 6; Σ T = 2·6, so 12·6 / (4·24 − 2·12) = 1
    "ties, of one mind": ([[2, 2, 1], [2, 2, 1]], 1.0),
    # ranks 1.5 1.5 3 and 1 2 3: sums 2.5 3.5 6, S = 6.5, T = 6; 12·6.5 / (96 − 2·6) = 0.92857
    "one ties": ([[2, 2, 1], [3, 2, 1]], 78 / 84),
}


@pytest.mark.parametrize(("ratings", "w"), CONCORDANCE.values(), ids=CONCORDANCE)
def test_kendalls_w_is_right_with_and_without_ties(ratings, w):
    assert kendall_w(ratings) == pytest.approx(w)


def test_kendalls_w_is_not_known_where_nothing_is_said():
    assert np.isnan(kendall_w([[1, 1, 1], [1, 1, 1]]))
    assert np.isnan(kendall_w([[1, 2, 3]]))


def test_pairs_are_alike_opposite_or_tied():
    # pairs 12 13 14 23 24 34; the first says + + + + + 0, the second + + 0 − − −
    assert pair_votes([4, 3, 2, 2], [3, 1, 2, 3]) == (2, 2, 2)


def test_the_test_of_places_agrees_with_friedmans_and_keeps_its_level():
    rng = np.random.default_rng(0)
    few = [rng.permutation(4) for _ in range(40)]
    ties = [rng.integers(0, 3, 4) for _ in range(40)]
    biased = [np.argsort(rng.random(4) + [0, 0.2, 0.2, 0.2]).argsort() for _ in range(40)]
    for levels in (few, ties, biased):
        p = position(levels).p
        # 2000 shuffles of a p near 0.5 err by 0.011; Friedman's χ² is itself an approximation
        assert p == pytest.approx(friedmanchisquare(*np.array(levels).T).pvalue, abs=0.04)
    below = sum(position([rng.permutation(3) for _ in range(8)], seed).p < 0.1 for seed in range(60))
    assert below <= 14  # 6 expected, with a deviation of 2.3


def test_a_planted_bias_of_the_place_is_found_among_rankings_of_several_lengths():
    rng = np.random.default_rng(0)
    levels = [np.argsort(rng.random(k) - 0.5 * (np.arange(k) == 0)).argsort() for k in [2, 3, 4] * 30]
    found = position(levels)
    assert found.p < 0.01
    assert found.mean_rank[0] < 0.4 < min(found.mean_rank[1:])
    assert found.counts == [90, 90, 60, 30]


def test_nothing_ranked_is_no_report_of_places():
    assert position([]).counts == []


@pytest.fixture
def people(tmp_path):
    """Three people who rank twenty prompts of each two models; `ppo`'s (b and d) are mostly better."""
    people = session(tmp_path, count=20, overlap=3)
    rng = Random(0)
    for n in range(20):
        for person in ("Ann", "Ben", "周"):
            best = (
                rng.choice(["bdac", "b=dac", "dbca", "badc", "bd=ac"])
                if n
                else {"Ann": "abcd"}.get(person, "dcba")
            )
            rank(people, person, best)
    rank(Session([item(99)], people.answers, 1, 0), "Ann", kind="flagged", remark=EVIL)
    return people


def test_the_report_says_who_wins_how_far_people_agree_and_where_not(people):
    report = report_of(people.answers.lines)
    assert list(report["models"]) == ["ppo", "sft"]
    (pair,) = report["pairs"]
    # by hand: of the 60 rankings' 4 pairs of two models each
    wins = ties = 0
    for line in people.answers.lines[:60]:
        a, b, c, d = line["ratings"]
        wins += sum(better > worse for better in (b, d) for worse in (a, c))
        ties += sum(better == worse for better in (b, d) for worse in (a, c))
    assert (pair["first"], pair["wins"], pair["ties"], pair["losses"]) == (
        "ppo",
        wins,
        ties,
        240 - wins - ties,
    )
    rate = report["models"]["ppo"]["win_rate"]
    assert rate["value"] == pytest.approx((wins + ties / 2) / 240)
    assert 0.5 < rate["low"] < rate["value"] < rate["high"]
    ranks = [report["models"][name]["mean_rank"]["value"] for name in ("ppo", "sft")]
    assert sum(ranks) == pytest.approx(5)  # of four replies, two each
    agreement = report["agreement"]
    assert agreement["prompts"] == 20
    assert agreement["by_chance"] == pytest.approx(1 / 3)
    assert agreement["disagreed"][0]["prompt"] == "Question 0"
    assert agreement["disagreed"][0]["replies"][0]["ranks"] == {"Ann": 1, "Ben": 4, "周": 4}
    assert [(two["first"], two["second"]) for two in agreement["pairs"]] == [
        ("Ann", "Ben"),
        ("Ann", "周"),
        ("Ben", "周"),
    ]
    assert report["position"]["p"] > 0.01  # nobody looked at the place
    assert report["seconds"] == {"median": 10.0, "low": 10.0, "high": 10.0}
    assert report["people"]["Ann"]["flagged"] == 1
    assert report["flags"] == [{"person": "Ann", "prompt": "Question 99", "remark": EVIL}]


def test_the_command_shows_a_table_json_and_a_page(people, tmp_path, capsys):
    file = str(tmp_path / "ranks.jsonl")
    assert main(["rank", "report", file, "--output", str(tmp_path / "rank.html")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for part in (
        "ppo against sft",
        "ppo wins",
        "Kendall's W",
        "cannot be told from chance",
        "disagreed on",
        EVIL,
    ):
        assert part in told
    assert main(["rank", "report", file, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["answers"] == {"ranked": 60, "cannot say": 0, "flagged": 1, "skipped": 0}
    with chromium() as browser:
        page = new_page(browser, viewport={"width": 390, "height": 800})
        page.goto((tmp_path / "rank.html").as_uri())
        assert page.title() == "What people ranked"
        assert EVIL in page.inner_text("#flags")
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_one_person_and_one_model_still_have_a_report(tmp_path, capsys):
    alone = item(0, models=("sft",) * 4)
    people = Session([alone], Ledger(tmp_path / "ranks.jsonl"), 1, 0)
    rank(people, "Ann", "abcd")
    assert main(["rank", "report", str(tmp_path / "ranks.jsonl"), "--output", str(tmp_path / "p.html")]) == 0
    told = capsys.readouterr().out
    assert "no prompt was ranked by two people" in told
    assert read(tmp_path / "ranks.jsonl") == people.answers.lines
    assert main(["rank", "report", str(tmp_path / "ranks.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == []


REFUSED = {
    "": "has no answers yet",
    "a text\n": "ranks.jsonl:1 is no line that `trivium rank` wrote (it is no JSON)",
    '{"instruction": "x"}\n': "ranks.jsonl:1 is no line that `trivium rank` wrote (it begins otherwise)",
    '{"verdict": "bought"}\n': "ranks.jsonl:1 is no line that `trivium rank` wrote (`verdict` is 'bought')",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_what_is_no_rank_file_has_no_report(tmp_path, capsys, text, reason):
    file = tmp_path / "ranks.jsonl"
    file.write_text(text)
    assert main(["rank", "report", str(file)]) == 2
    assert reason in capsys.readouterr().err
    assert main(["rank", "report", str(tmp_path / "none.jsonl")]) == 2
    assert "cannot be read: no such file" in capsys.readouterr().err
