"""What the page says of each claim, for somebody who meets it for the first time."""

from typing import NamedTuple


class Story(NamedTuple):
    """The words around an experiment's figures."""

    title: str
    claim: str
    """as tutorials put it"""
    test: str
    """what is done here"""
    controls: str
    """what else could explain it, and what rules that out"""
    limits: str
    """what this does not show"""
    samples: tuple[tuple[str, str, str], ...]
    """what is shown of the first test item: a label, an arm and a condition"""


STORIES = {
    "emergence": Story(
        "Emergence",
        "Some abilities are absent in small models and appear in larger ones, although task, data and "
        "training are the same.",
        "Models of ten widths learn to add two five-digit numbers, written from the lowest digit on. "
        "Each is asked the same 1,000 sums that no training row holds. Exact match wants all six "
        "digits right.",
        "Is the jump only made by the strict metric? Beside exact match stand the share of right "
        "digits and the loss, on the same answers. Breakthroughness is BIG-bench's measure of "
        "suddenness: if the loss rose evenly where exact match jumps, the jump would be a mirage of "
        "the metric. Every seed is a dot, since at the edge some seeds succeed and others fail: a "
        "mean alone would look like a gentle slope.",
        "Widths of 4 to 48 are no models of billions; that every reported threshold is real does not follow. "
        "Where it lies depends on the training: after 1,800 steps instead of 800 the model of width 6 has "
        "74 % right (one seed). And it is no line: of five models of width 6 some learn to add, so one seed "
        "alone says little.",
        (
            ("the smallest model", "d = 4", "addition"),
            ("the largest model", "d = 48", "addition"),
        ),
    ),
    "in-context": Story(
        "In-context learning",
        "A model answers better with examples in its prompt, although no weight changes.",
        "Things get colours by chance, anew in every row, so that nothing can be known in advance. "
        "The model sees k examples and is asked about one of the things. Then chains: every row of "
        "symbols follows transition probabilities of its own, and the best possible prediction from "
        "what has been seen is known exactly.",
        "Without an example the answer can only be a guess (1 in 8). A model with one layer and the "
        "same training must find the answer by counting colours: looking up a pair takes two layers, "
        "one to tie a label to what stands before it and one to look there. In chains, a predictor "
        "that only counts symbols is the control.",
        "The rows are made so that looking back pays. That such rows are frequent enough in natural "
        "text is another question. Finding out which of several attributes decides (rule induction) "
        "was tried in the pilots and not learnt at this size.",
        (
            ("no example", "two layers", "0 examples"),
            ("four examples", "two layers", "4 examples"),
            ("four examples, one layer", "one layer", "4 examples"),
        ),
    ),
    "instructions": Story(
        "Following new instructions",
        "A model tuned on many different instructions follows instructions that it has never seen.",
        "An instruction says which two letters to replace by which in a text. Of 4,032 instructions "
        "500 are never trained on. Five models see the same number of examples, of 30 to 3,000 "
        "different instructions.",
        "All models have the same size, steps and number of examples: only the variety differs. Texts "
        "of the test hold what is to be replaced, so that copying the text is always wrong.",
        "Instructions are of one kind here. That variety of kinds does the same for natural "
        "instructions is what the literature reports; mini-IFEval in `trivium evaluate` measures it "
        "for models of natural text.",
        (
            ("30 instructions", "30 rules", "new instructions"),
            ("3,000 instructions", "3000 rules", "new instructions"),
        ),
    ),
    "chain-of-thought": Story(
        "Chain of thought",
        "Questions that a model cannot answer at once it can answer step by step.",
        "A program of n numbered lines, shuffled, with sums and products modulo 11. The same model is "
        "trained to answer at once (“=”) and in steps (“:”), half of the rows each, and is asked both "
        "ways.",
        "More tokens are more computation: a model trained with as many dots as the steps have tokens "
        "shows what that alone gives. A model trained on direct answers only, with equal FLOPs, shows "
        "that steps do not take room from direct answers. A wrong result is written into the middle "
        "of the steps: if the final answer follows it, the steps are used and no decoration.",
        "Steps are trained here. That large models do it when merely asked to is not shown.",
        (
            ("at once", "both", "direct 8"),
            ("in steps", "both", "steps 8"),
            ("after dots", "dots", "dots 8"),
        ),
    ),
    "retrieval": Story(
        "Retrieval against hallucination",
        "A model makes up what it does not know; given the right passage, it tells what is there.",
        "A world of 4,096 people with a city, a job, a year and a food. 500 people are known to the "
        "weights; 1,000 occur in no training row. The same questions are asked without a passage, "
        "with the right one among three, with three wrong ones, and with what BM25 finds among all "
        "passages.",
        "Questions about known people show that the weights do hold facts. Wrong passages show that "
        "it is not their presence that helps. With 70 % of the passages in the collection, the share "
        "of right answers should be recall × reading + the rest × guessing. Counterfactual passages "
        "contradict the weights: whom does the model believe?",
        "Reading was trained with passages of the same form. Natural passages are harder to read and "
        "to find.",
        (
            ("no passage", "reader", "unseen, none, free"),
            ("with the passage", "reader", "unseen, gold, free"),
            ("wrong passages", "reader", "unseen, wrong, free"),
        ),
    ),
    "restriction": Story(
        "Prompt restriction against hallucination",
        "Asked to answer from the given text only, a model admits that it does not know.",
        "The model of the retrieval experiment, the same questions: freely (“beyond text”), and "
        "restricted (“only text”, “strictly passage” …), where the passages tell the answer and where "
        "they do not.",
        "The question and the passages are the same; only two words differ. Two wordings are never "
        "trained on, though their words are. A model that always refuses makes nothing up: "
        "over-refusal counts refusals where the passages do tell.",
        "Refusing was trained. The entropy of the first word tells almost as well whether the "
        "passages hold the answer, without any training to refuse: see risk against coverage.",
        (
            ("free, the passages do not tell", "reader", "unseen, wrong, free"),
            ("restricted, they do not tell", "reader", "unseen, wrong, restricted"),
            ("restricted, they tell", "reader", "unseen, gold, restricted"),
        ),
    ),
}
