"""The language a text is written in, offline: the model is in the py3langid package."""

from experiments.data.texts import needed

READ = 1000  # characters of a text
LEAST = 0.2  # probability; a less certain language is not named
NO_LANGUAGE, UNSURE = "no language", "unsure"
# Short texts do not tell these apart from the language they are written like.
WRITTEN_LIKE = {"wuu": "zh", "yue": "zh", "pcm": "en"}
NAMES = {
    "ar": "Arabic", "bn": "Bengali", "ca": "Catalan", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish", "fr": "French",
    "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "la": "Latin", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "th": "Thai", "tr": "Turkish",
    "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese", "und": UNSURE,
    "zxx": NO_LANGUAGE,
}  # fmt: skip


class Languages:
    """Names languages; needs py3langid, which a `UserError` says where it is not installed."""

    def __init__(self) -> None:
        langid = needed("py3langid.langid")
        self._identifier = langid.LanguageIdentifier.from_model_file(
            langid.MODEL_FILE, norm_probs=True, min_confidence=LEAST
        )

    def of(self, text: str) -> str:
        """The language's name, its ISO 639 code where the name is not known here, `unsure`, or `no language`
        for what has no letter in it and for markup."""
        text = text[:READ]
        if not any(map(str.isalpha, text)):
            return NO_LANGUAGE
        code = self._identifier.classify(text.encode("utf-8", "replace").decode())[0]
        code = WRITTEN_LIKE.get(code, code)
        return NAMES.get(code, code)
