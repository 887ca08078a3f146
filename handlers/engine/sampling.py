"""Chooses the next token of each row: the same one alone and in any crowd, on any device.

Chance is a counter: the uniform number of a row is a hash of its seed and how many tokens it has generated. Every filter
looks at its own row only. Order: penalties and biases, temperature, top_k, top_p, min_p, draw. Log-probabilities are those
of the raw logits.
"""

from collections import Counter
from collections.abc import Sequence as Rows

import torch

from .interface import Logprob
from .sequence import Sequence

MASK = (1 << 64) - 1
FEW = 1024  # a larger top_k is filtered over the whole vocabulary
NEVER = float("-inf")
COLD = 1e-5  # a temperature below is greedy: dividing by it overflows
BLOCK = 128


def uniform(seed: int, index: int) -> float:
    """In [0, 1): splitmix64 of the pair."""
    x = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & MASK
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) & MASK
    return ((x ^ (x >> 31)) >> 11) / (1 << 53)


def choose(logits: torch.Tensor, rows: Rows[Sequence], stops: Rows[int]) -> list[int]:
    """A token for each row of `logits`, which is left as it is; `stops` are the tokens that min_tokens forbids."""
    changed = [index for index, row in enumerate(rows) if _changes(row)]
    if changed:
        logits = logits.float().clone()
        for index in changed:
            _change(logits[index], rows[index], stops)
    sampled = [index for index, row in enumerate(rows) if not greedy(row)]
    tokens: list[int] = best(logits.float()).tolist()
    few = [index for index in sampled if 0 < rows[index].params.top_k <= FEW]
    many = [index for index in sampled if not 0 < rows[index].params.top_k <= FEW]
    for chosen, draw in ((few, _draw_few), (many, _draw)):
        if chosen:
            part = logits[chosen].float()
            for index, token in zip(chosen, draw(part, [rows[index] for index in chosen]), strict=True):
                tokens[index] = token
    return tokens


def best(logits: torch.Tensor) -> torch.Tensor:
    """Each row's argmax, the first of equals: by blocks, which is five times faster on a CPU where they fit."""
    if logits.device.type != "cpu" or logits.shape[1] % BLOCK:
        return logits.argmax(dim=-1)
    blocks = logits.unflatten(1, (-1, BLOCK))
    block = blocks.amax(dim=-1).argmax(dim=-1)
    within = blocks[torch.arange(len(block)), block].argmax(dim=-1)
    return block * BLOCK + within


def greedy(row: Sequence) -> bool:
    params = row.params
    return params.temperature < COLD or params.top_k == 1 or params.top_p <= 0


def logprobs(logits: torch.Tensor, tokens: Rows[int], alternatives: int) -> list[Logprob]:
    """Of each row's token, with the best alternatives."""
    values = torch.log_softmax(logits.float(), dim=-1)
    own = values.gather(1, torch.tensor(tokens, device=values.device)[:, None])[:, 0].tolist()
    if alternatives <= 0:
        return [Logprob(token, value) for token, value in zip(tokens, own, strict=True)]
    best, ids = values.topk(min(alternatives, values.shape[1]), dim=-1)
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids.tolist(), best.tolist(), strict=True)]
    return [Logprob(token, value, top) for token, value, top in zip(tokens, own, tops, strict=True)]


def _changes(row: Sequence) -> bool:
    params = row.params
    return bool(
        params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or row.generated < params.min_tokens
        or row.grammar is not None
    )


def _change(logits: torch.Tensor, row: Sequence, stops: Rows[int]) -> None:
    """In place, on one row."""
    params, device = row.params, logits.device
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(row.ids)), device=device)
        values = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(values < 0, values * penalty, values / penalty)
    if params.presence_penalty or params.frequency_penalty:
        counts = Counter(row.ids[row.prompt_length :])
        if counts:
            ids = torch.tensor(list(counts), device=device)
            times = torch.tensor(list(counts.values()), device=device, dtype=logits.dtype)
            logits[ids] -= params.presence_penalty + params.frequency_penalty * times
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=device)
        logits[ids] += torch.tensor(list(params.logit_bias.values()), device=device, dtype=logits.dtype)
    if row.generated < params.min_tokens:
        logits[[*stops, *params.stop_token_ids]] = NEVER
    if row.grammar is not None:
        row.grammar.mask(logits)


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _draw_few(logits: torch.Tensor, rows: Rows[Sequence]) -> list[int]:
    """Rows with a small top_k: only their best candidates are looked at."""
    most = min(max(row.params.top_k for row in rows), logits.shape[1])
    best, ids = logits.topk(most, dim=-1)  # descending
    scaled = best / _column([row.params.temperature for row in rows], best)
    rank = torch.arange(most, device=best.device)[None]
    scaled = scaled.masked_fill(rank >= _column([row.params.top_k for row in rows], best), NEVER)
    return _pick(_keep_likely(scaled, rows), ids, rows)


def _draw(logits: torch.Tensor, rows: Rows[Sequence]) -> list[int]:
    """Rows that look at the whole vocabulary; sorted only where a filter asks for it."""
    scaled = logits / _column([row.params.temperature for row in rows], logits)
    sort = any(row.params.top_p < 1 or row.params.min_p > 0 or row.params.top_k > 0 for row in rows)
    if not sort:
        return _pick(scaled, None, rows)
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    limits = [row.params.top_k or ordered.shape[1] for row in rows]
    rank = torch.arange(ordered.shape[1], device=ordered.device)[None]
    ordered = ordered.masked_fill(rank >= _column(limits, ordered), NEVER)
    kept = _keep_likely(ordered, rows)
    return _pick(torch.full_like(scaled, NEVER).scatter_(1, ids, kept), None, rows)


def _keep_likely(ordered: torch.Tensor, rows: Rows[Sequence]) -> torch.Tensor:
    """top_p and min_p on logits that descend."""
    probabilities = torch.softmax(ordered, dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    drop = before >= _column([row.params.top_p if row.params.top_p < 1 else 2.0 for row in rows], ordered)
    drop |= probabilities < probabilities[:, :1] * _column([row.params.min_p for row in rows], ordered)
    drop[:, 0] = False
    return ordered.masked_fill(drop, NEVER)


def _pick(logits: torch.Tensor, ids: torch.Tensor | None, rows: Rows[Sequence]) -> list[int]:
    """By the inverse of the distribution function, in the order of token ids: ties and rounding change nothing then."""
    if ids is not None:
        ids, order = ids.sort(dim=-1)
        logits = logits.gather(1, order)
    reached = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    chance = torch.tensor([uniform(row.seed, row.generated) for row in rows], dtype=reached.dtype, device=reached.device)
    place = torch.searchsorted(reached, (chance * reached[:, -1])[:, None], right=True).clamp_(max=logits.shape[1] - 1)
    chosen = place if ids is None else ids.gather(1, place)
    tokens: list[int] = chosen[:, 0].tolist()
    return tokens
