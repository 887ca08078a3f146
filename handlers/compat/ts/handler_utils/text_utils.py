"""ts.handler_utils.text_utils"""

from flambeau.handlers.text_cleaning import ngrams as ngrams_iterator
from flambeau.handlers.text_cleaning import words


def get_tokenizer(name="basic_english", language="en"):
    if name != "basic_english":
        raise ValueError(f"{name}: only basic_english is known")
    return words


__all__ = ["get_tokenizer", "ngrams_iterator"]
