"""Which language a text is in: by its script where that says it, else by its commonest words, letters and endings.

No model and no random draw. A letter, function word or ending that few languages have weighs more than one that many
share. A text of two sentences is told surely (see the parity test); one of three words often is not, and then the
answer is None rather than a guess.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from sage.libs.finetune.agent.evaluation.instructions.function_words import ENDINGS, ENGLISH, FUNCTION_WORDS

_SCRIPTS = {
    "latin": re.compile("[A-Za-zÀ-ɏḀ-ỿ]"),
    "cyrillic": re.compile("[Ѐ-ӿ]"),
    "greek": re.compile("[Ͱ-Ͽ]"),
    "hebrew": re.compile("[א-ת]"),
    "arabic": re.compile("[ء-يٮ-ۓ]"),
    "devanagari": re.compile("[ऀ-ॣ]"),
    "bengali": re.compile("[ঀ-৿]"),
    "gurmukhi": re.compile("[਀-੿]"),
    "gujarati": re.compile("[઀-૿]"),
    "tamil": re.compile("[஀-௿]"),
    "telugu": re.compile("[ఀ-౿]"),
    "kannada": re.compile("[ಀ-೿]"),
    "malayalam": re.compile("[ഀ-ൿ]"),
    "thai": re.compile("[฀-๿]"),
    "hangul": re.compile("[가-힣]"),
    "han": re.compile("[一-鿿ぁ-ヿ]"),
}
_KANA = re.compile("[ぁ-ヿ]")
_ONE_LANGUAGE = {
    "greek": "el", "hebrew": "he", "bengali": "bn", "gurmukhi": "pa", "gujarati": "gu", "tamil": "ta",
    "telugu": "te", "kannada": "kn", "malayalam": "ml", "thai": "th", "hangul": "ko",
}  # fmt: skip
# Letters that, among the languages of their script told apart here, only these use much.
_LETTERS = {
    "latin": {
        "ñ¿¡": ["es"], "ãõ": ["pt", "vi"], "ß": ["de"], "łąęśźż": ["pl"],
        "đơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ": ["vi"],
        "œîû": ["fr"], "ç": ["fr", "pt", "ca", "tr"], "ê": ["fr", "pt", "vi"],
        "ä": ["de", "fi", "sv"], "ö": ["de", "fi", "sv", "tr", "hu"], "å": ["sv", "da", "no"],
        "æø": ["da", "no"], "șță": ["ro"], "řěů": ["cs"], "ğış": ["tr"], "őű": ["hu"], "ìò": ["it", "vi"],
    },
    "cyrillic": {"ыэё": ["ru"], "іїєґ": ["uk"], "ѓќљњџјѕ": ["mk"]},
    "devanagari": {"ळ": ["mr"]},
    "arabic": {"ٹڈڑےںھ": ["ur"], "ةيىك": ["ar"], "پچژگ": ["fa", "ur"], "یک": ["fa", "ur"]},
}  # fmt: skip
_EDGES = '.,;:!?()[]{}<>"*_…«»“”„‘’-–—।،؟'
_COMMON_WORD = 0.4  # what a common word of English says, against 1 for a function word that no other language has
_ENDING = 0.25


def _shares(words: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
    """What each word says for each language: a word of n languages says 1/n for each."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for language, those in words.items():
        for word in sorted(set(those)):
            owners[word].append(language)
    return {word: dict.fromkeys(having, 1 / len(having)) for word, having in owners.items()}


_VOTES = {script: _shares(languages) for script, languages in FUNCTION_WORDS.items()}
for _word in ENGLISH - FUNCTION_WORDS["latin"]["en"]:
    _others = _VOTES["latin"].setdefault(_word, {})
    _others["en"] = _COMMON_WORD / (1 + len(_others))
_ENDING_VOTES = _shares({language: endings.split() for language, endings in ENDINGS.items()})
LANGUAGES = frozenset(
    {"en", "es", "pt", "fr", "de", "it", "pl", "vi", "fi", "sw", "ru", "uk", "bg", "hi", "mr", "ne", "ar", "fa", "ur"}
    | {"ja", "zh", *_ONE_LANGUAGE.values()}
)
"""The languages that can be asked for (ISO 639-1): IFEval's thirty, Greek and Chinese."""


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language, None when nothing in it tells.

    Example:
        >>> language_of("The cat is on the mat."), language_of("Le chat est sur la table."), language_of("12 %")
        ('en', 'fr', None)
    """
    script = _script(text)
    if script is None or script in _ONE_LANGUAGE:
        return _ONE_LANGUAGE.get(script or "")
    if script == "han":
        return "ja" if _KANA.search(text) else "zh"
    scores: defaultdict[str, float] = defaultdict(float)
    lower = text.lower()
    for word, times in Counter(re.split(r"[\s'’/]+", lower)).items():
        word = word.strip(_EDGES)
        for language, share in _VOTES[script].get(word, {}).items():
            scores[language] += share * times
        ending = next((word[-n:] for n in (6, 5, 4, 3) if n < len(word) and word[-n:] in _ENDING_VOTES), "")
        for language, share in _ENDING_VOTES.get(ending, {}).items():
            scores[language] += share * times * _ENDING
    for letters, languages in _LETTERS.get(script, {}).items() if not text.isascii() else ():
        if found := sum(lower.count(letter) for letter in letters):
            for language in languages:
                scores[language] += found / len(languages)
    best = sorted(scores.items(), key=lambda pair: -pair[1])[:2]
    if not best or (len(best) == 2 and best[0][1] == best[1][1]):
        return None
    return best[0][0]


def _script(text: str) -> str | None:
    """The script that most letters are of; None without a letter of a known one."""
    if text.isascii():
        return "latin" if _SCRIPTS["latin"].search(text) else None
    counts = {script: len(letters.findall(text)) for script, letters in _SCRIPTS.items()}
    script = max(counts, key=counts.__getitem__)
    return script if counts[script] else None
