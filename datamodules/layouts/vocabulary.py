"""The names of columns that ask and of those that answer, as public datasets have them."""

QUESTIONS = (
    *("instruction", "prompt", "query", "question", "problem", "inputs"),
    *("question_stem", "input_text", "orig_instruction", "inputs_pretokenized"),
)
CONTEXTS = ("input", "context")
PASSAGES = ("passage", "article", "document", "paragraph", "story", "dialogue", "contexts", "para")
"""columns of a text that a question beside them is about"""
SYSTEMS = ("system", "system_prompt", "systemInstruction", "system_instruction", "meta_instruction")
ALTERNATIVES = ("answer", "answers", "human_answers", "chatgpt_answers")
"""columns that may hold several answers, each of which will do"""
REPLIES = (
    *("output", "response", "completion", "solution", *ALTERNATIVES),
    *("targets", "target", "output_text", "targets_pretokenized", "generated_solution", "generation"),
    *("correction", "corrected"),
)
RATINGS = ("ratings", "scores", "rating", "ranks", "rank")
"""columns of how good each of a list of replies is"""
