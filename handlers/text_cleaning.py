"""Plain text for models of words: tags, accents, contractions and punctuation taken off, then words and their n-grams."""

import re
import string
import unicodedata
from collections.abc import Iterator
from html import unescape

TAGS = re.compile(r"<[^>]*>")
CONTRACTIONS = [
    (re.compile(pattern, re.IGNORECASE), full)
    for pattern, full in [
        (r"\bwon't\b", "will not"),
        (r"\bcan't\b", "cannot"),
        (r"\bshan't\b", "shall not"),
        (r"\blet's\b", "let us"),
        (r"n't\b", " not"),
        (r"'re\b", " are"),
        (r"'ve\b", " have"),
        (r"'ll\b", " will"),
        (r"'d\b", " would"),
        (r"'m\b", " am"),
        (r"\b(he|she|it|that|there|here|what|who|where|when|why|how)'s\b", r"\1 is"),
    ]
]


def without_tags(text: str) -> str:
    return unescape(TAGS.sub("", text))


def without_contractions(text: str) -> str:
    for pattern, full in CONTRACTIONS:
        text = pattern.sub(full, text)
    return text.replace("'", "")


def without_accents(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def without_punctuation(text: str) -> str:
    return text.translate(str.maketrans("", "", string.punctuation))


def words(text: str) -> list[str]:
    """torchtext's `basic_english`: lower case; signs between words are words of their own."""
    text = text.lower().replace('"', "").replace("<br />", " ")
    return re.sub(r"([.,()!?'])", r" \1 ", re.sub(r"[;:]", " ", text)).split()


def ngrams(tokens: list[str], longest: int) -> Iterator[str]:
    """Each word, then each pair of neighbours, and so on up to `longest`."""
    for length in range(1, longest + 1):
        for at in range(len(tokens) - length + 1):
            yield " ".join(tokens[at : at + length])
