"""Where the sentences of an English text end.

The rules are those of Punkt (Kiss and Strunk 2006), which IFEval's checker asks; what Punkt learned from newspapers is
replaced by two short lists, of abbreviations and of words that open sentences. A `?` or `!` ends a sentence. A `.` does
too, except after an abbreviation, an initial, a number that goes on in small letters, or an ellipsis; there the next
word decides: a capital on a word that often opens one (`6 p.m. The shop ...`) says that a sentence begins.
"""

from __future__ import annotations

import re
from itertools import pairwise

from sage.libs.finetune.agent.evaluation.instructions.function_words import ENGLISH

ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st jr sr rev rep reps sen gen col lt maj messrs inc ltd co corp bros cos vs dept ave ft "
    "jan feb oct nov dec aug sept sep tues wed fri u.s u.k u.n u.s.a p.m a.m ph.d d.c l.a n.y s.a "
    "c d e f g h j k l m n p r s t v w".split()
)
OPENERS = frozenset(
    "the this these they there he him her here it its i in into if but so some many most both us very your which when "
    "while were whether whenever without within upon unless under although though among however since yet yes even "
    "either neither nor despite according instead indeed besides meanwhile moreover nevertheless nonetheless similarly "
    "separately furthermore otherwise therefore thus hence finally suddenly recently unfortunately certainly surely "
    "overall sometimes soon still always please remember imagine consider try thank thanks sorry okay enjoy someone "
    "anyone anything nothing".split()
)
_PUNCTUATION = (";", ":", ",", ".", "!", "?")
_CLOSING = "\"')]}‘’“”«»"
_END = re.compile(rf"[.?!](?=[{re.escape(_CLOSING)};*:@({{\[?!]|\s)")
_CLOSED = re.compile(rf"[{re.escape(_CLOSING)}]+(?=\s|--|\Z)")
# In a piece without space: dashes and dots, a word up to the next mark, or a mark.
_TOKEN = re.compile(r"-{2,}|\.{2,}|[^\s(\"`{\[:;&#*@)}\]\-,](?:(?!--|\.\.)[^\s\")(;}\]*:@'{\[‘’“”«»?!,]|,(?=\w))*|\S")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")


def count_sentences(text: str) -> int:
    """How many sentences a text has; what follows the last end is one more.

    Example:
        >>> count_sentences('Dr. Lee paid 3.50 in the U.S. today. "Really?" Yes!')
        3
    """
    return len(split_sentences(text))


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without the space between them.

    Example:
        >>> split_sentences("He left at 5 p.m. sharp. (She stayed.) Why?")
        ['He left at 5 p.m. sharp.', '(She stayed.)', 'Why?']
    """
    sentences, start, length = [], 0, len(text.rstrip())
    pieces = [(piece.start(), piece.group()) for piece in re.finditer(r"\S+", text)]
    for index, (offset, piece) in enumerate(pieces):
        following = pieces[index + 1][1] if index + 1 < len(pieces) else ""
        end = _end_in(piece, following)
        if not end:
            continue
        stop = offset + end
        closed = _CLOSED.match(text, stop) or (_CLOSED.match(following) if end == len(piece) else None)
        if closed:  # the quotes and brackets that close a sentence belong to it, also after a space
            stop = closed.end() if closed.string is text else pieces[index + 1][0] + closed.end()
        sentences.append(text[start:stop].strip())
        start = stop
    rest = text[start:length].strip()
    return [sentence for sentence in (*sentences, rest) if sentence]


def _end_in(piece: str, following: str) -> int:
    """Where in a piece without space a sentence ends, 0 if nowhere; the last possible place decides."""
    ends = list(_END.finditer(piece + " " if following else piece))
    if not ends:
        return 0
    end = ends[-1].end()
    tokens = _TOKEN.findall(piece[:end]) + (_TOKEN.findall(following) if end == len(piece) else [piece[end]])
    return end if any(_breaks(token, then) for token, then in pairwise(tokens)) else 0


def _breaks(token: str, following: str) -> bool:
    """Whether a sentence ends with the token, given the next."""
    if token in ("?", "!"):
        return True
    if not token.endswith("."):
        return False
    word, capital, then = token[:-1].lower(), following[:1].isupper(), following.lower().rstrip(".")
    initial = len(word) == 1 and word.isalpha()
    if token.endswith(".."):
        return capital and then in OPENERS
    if word in ABBREVIATIONS or word.split("-")[-1] in ABBREVIATIONS:
        return capital and then in OPENERS and not initial
    if initial or _NUMBER.fullmatch(word):
        name = initial and capital and then not in ENGLISH  # A. Lee
        return not (name or following[:1].islower() or following in _PUNCTUATION)
    return True
