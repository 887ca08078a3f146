"""Train a language model of 5.5 million parameters on documentation: python train.py OUTPUT_FOLDER [STEPS]

Llama's architecture, a byte-level BPE tokenizer of 4,096 tokens made from the same text. About a quarter of an hour on one
core. Prints the loss on held-out documents beside that of a unigram model, and saves bf16 weights, tokenizer, and a piece
of the held-out tokens (for tests of quantisation).
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
from corpus import texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
CONTEXT = 256  # tokens of a training row
ROWS = 8
PEAK_RATE = 2e-3
WARM_UP = 100
END = "<|endoftext|>"
CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CORPUS_BYTES = 16 << 20


def main(folder: Path, steps: int) -> None:
    torch.manual_seed(0)
    documents = texts()
    order = torch.randperm(len(documents)).tolist()
    documents = [documents[index] for index in order]
    held_out, documents = documents[: len(documents) // 50], documents[len(documents) // 50 :]
    tokenizer = train_tokenizer(documents)
    train_ids, test_ids = encode(tokenizer, documents), encode(tokenizer, held_out)
    print(f"{len(documents)} documents, {len(train_ids):,} tokens; held out: {len(test_ids):,} tokens", flush=True)

    model = train(train_ids, steps)

    print(
        f"held-out loss: unigram {unigram_loss(train_ids, test_ids):.3f}, model {held_out_loss(model, test_ids):.3f} nats per token"
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name_for_all_releases(folder / "tokenizer_config.json")
    (folder / "held_out.json").write_text(json.dumps(test_ids[: 16 * (CONTEXT + 1)].tolist()))


def name_for_all_releases(path: Path) -> None:
    """transformers 5 writes a class name that 4 does not know; handlers packed for 4 can load the model by the older name."""
    config = json.loads(path.read_text())
    del config["backend"]
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=1024)
    wrapped.chat_template = CHAT
    return wrapped


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> torch.Tensor:
    ids: list[int] = []
    for document in documents:
        ids += [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]
    return torch.tensor(ids)


def train(ids: torch.Tensor, steps: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    began = time.monotonic()
    for step in range(steps):
        rate = min(1, (step + 1) / WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate
        starts = torch.randint(len(ids) - CONTEXT, (ROWS,))
        rows = torch.stack([ids[start : start + CONTEXT] for start in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    return model.eval()


def unigram_loss(train_ids: torch.Tensor, test_ids: torch.Tensor) -> float:
    counts = torch.bincount(train_ids, minlength=VOCABULARY).float() + 1
    return float(-(counts / counts.sum()).log()[test_ids].mean())


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    rows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)[:64]
    return sum(float(model(row[None], labels=row[None]).loss) for row in rows) / len(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1600)
