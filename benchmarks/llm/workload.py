"""The requests every engine gets: 32 of them, prompts of 32 to 256 tokens, answers of 16 to 256, always the same ones.

A: all at once. B: the same, arriving like Poisson at 3 a second. C: shorter ones at once, prompts to 128 and answers to 96.
"""

import random
from dataclasses import dataclass

COUNT = 32
RATE = 3.0
LONGEST = {"A": (256, 256), "B": (256, 256), "C": (128, 96)}  # prompt, answer


@dataclass(frozen=True)
class Wanted:
    prompt: list[int]
    tokens: int
    arrival: float  # seconds after the start


def requests(vocabulary: int, workload: str) -> list[Wanted]:
    chance = random.Random(7)
    longest_prompt, longest_answer = LONGEST[workload]
    made, clock = [], 0.0
    for _ in range(COUNT):
        prompt = [chance.randrange(3, vocabulary) for _ in range(chance.randint(32, longest_prompt))]
        tokens = chance.randint(16, longest_answer)
        clock += chance.expovariate(RATE)
        made.append(Wanted(prompt, tokens, clock if workload == "B" else 0.0))
    return made
