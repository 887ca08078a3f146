"""One engine, one run: each function takes a model and requests and tells when every token came, on the clock it is given.

The clock is this process' CPU time (of all its threads, and it has one that computes), so that a shared machine measures what
a quiet one would; arrivals happen on that clock too. Tokens are not turned into text by anybody.
"""

import queue
import time
from collections.abc import Callable

from workload import Wanted

Times = list[list[float]]  # for each request, when each of its tokens came


class Clock:
    """CPU seconds of this process since the start, plus what was skipped waiting for the next arrival."""

    def __init__(self) -> None:
        self._start, self._skipped = time.process_time(), 0.0

    def now(self) -> float:
        return time.process_time() - self._start + self._skipped

    def skip_to(self, moment: float) -> None:
        self._skipped += max(0.0, moment - self.now())


def flambeau(runner: str) -> Callable[..., Times]:
    def run(model, wanted: list[Wanted], clock: Clock, rows: int = 32) -> Times:
        import torch

        from flambeau.handlers.engine.engine import Engine, Limits
        from flambeau.handlers.engine.fused import FusedRunner
        from flambeau.handlers.engine.runner import HfRunner
        from flambeau.handlers.generation import SamplingParams

        with torch.inference_mode():
            made = {"fused": FusedRunner, "hf": HfRunner}[runner](model, rows + 8, 2048)
        budget = 2048 if made.device.type == "cuda" else 256
        engine = Engine(made, Limits(max_rows=rows, max_tokens=budget), slots=rows + 8)
        times: Times = [[] for _ in wanted]

        def sink(index):
            return lambda event: times[index].extend(clock.now() for _ in event.token_ids)

        engine.add_request([1] * 40, SamplingParams(max_tokens=8, temperature=0, ignore_eos=True), lambda event: None)
        while engine.step():
            pass
        clock.__init__()
        waiting = list(enumerate(wanted))
        busy = True
        while waiting or busy:
            while waiting and waiting[0][1].arrival <= clock.now():
                index, request = waiting.pop(0)
                params = SamplingParams(max_tokens=request.tokens, temperature=0, ignore_eos=True)
                engine.add_request(request.prompt, params, sink(index))
            busy = engine.step()
            if not busy and waiting:
                clock.skip_to(waiting[0][1].arrival)
                busy = True
        return times

    return run


def static(size: int) -> Callable[..., Times]:
    """generate() on padded batches; each step's tokens come together, and a batch ends with its longest answer."""

    def run(model, wanted: list[Wanted], clock: Clock) -> Times:
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList

        times: Times = [[] for _ in wanted]
        left = list(range(len(wanted)))
        while left:
            clock.skip_to(wanted[left[0]].arrival)
            batch = [index for index in left if wanted[index].arrival <= clock.now()][:size]
            left = [index for index in left if index not in batch]
            longest = max(len(wanted[index].prompt) for index in batch)
            ids = [[0] * (longest - len(wanted[index].prompt)) + wanted[index].prompt for index in batch]
            mask = [[0] * (longest - len(wanted[index].prompt)) + [1] * len(wanted[index].prompt) for index in batch]

            class Watch(StoppingCriteria):
                def __call__(self, ids, scores, batch=batch, **_):
                    for index in batch:
                        if len(times[index]) < wanted[index].tokens:
                            times[index].append(clock.now())
                    return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

            model.generate(
                torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max(wanted[index].tokens for index in batch),
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([Watch()]),
            )
        return times

    return run


def continuous(model, wanted: list[Wanted], clock: Clock) -> Times:
    """transformers' own continuous batching."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model.set_attn_implementation("paged|sdpa" if model.device.type == "cuda" else "sdpa")
    config = GenerationConfig(max_new_tokens=256, do_sample=False, eos_token_id=-1, pad_token_id=0)
    # Room for every request at once; by default it fills most of the machine's memory with zeros first.
    room = ContinuousBatchingConfig(page_size=32, num_blocks=512, max_batch_tokens=512)
    manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=room)
    manager.start()
    manager.add_request([1] * 40, request_id="warm", max_new_tokens=8)
    while (result := manager.get_result(timeout=0.05)) is None or not result.is_finished():
        pass
    times: Times = [[] for _ in wanted]
    clock.__init__()
    left, waiting = {f"r{index}" for index in range(len(wanted))}, list(enumerate(wanted))
    while left:
        while waiting and waiting[0][1].arrival <= clock.now():
            index, request = waiting.pop(0)
            manager.add_request(request.prompt, request_id=f"r{index}", max_new_tokens=request.tokens, streaming=True)
        if waiting and len(left) == len(waiting):
            clock.skip_to(waiting[0][1].arrival)
            continue
        try:
            result = manager.get_result(timeout=0.05)
        except queue.Empty:
            continue
        if result is None:
            continue
        seen = times[int(result.request_id[1:])]
        seen.extend(clock.now() for _ in range(len(result.generated_tokens) - len(seen)))
        if result.is_finished():
            left.discard(result.request_id)
    manager.stop(block=True)
    return times


ENGINES: dict[str, Callable[..., Times]] = {
    "fused": flambeau("fused"),
    "hf": flambeau("hf"),
    "one by one": static(1),
    "static 32": static(32),
    "transformers cb": continuous,
}
