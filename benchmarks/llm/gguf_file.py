"""A model folder of Llama's shape as a GGUF, llama.cpp's own file format."""

import json
from pathlib import Path


def convert(folder: Path, dtype: str) -> Path:
    """The file; made once."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    path = folder / f"{dtype}.gguf"
    if path.exists():
        return path
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    heads, kv_heads, layers = (config[f"num_{key}"] for key in ("attention_heads", "key_value_heads", "hidden_layers"))
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")

    def add(name, array, matrix=True):
        half = matrix and dtype == "bfloat16"
        kind = gguf.GGMLQuantizationType.BF16 if half else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(array.astype(np.float32), kind), raw_dtype=kind)

    def turned(array, count):
        """llama.cpp has a head's rotary pairs side by side."""
        rows, columns = array.shape
        return array.reshape(count, 2, rows // count // 2, columns).swapaxes(1, 2).reshape(rows, columns)

    embedding = weights["model.embed_tokens.weight"]
    add("token_embd.weight", embedding)
    add("output_norm.weight", weights["model.norm.weight"], False)
    add("output.weight", weights.get("lm_head.weight", embedding))
    for at in range(layers):
        theirs, ours = f"blk.{at}.", f"model.layers.{at}."
        add(theirs + "attn_norm.weight", weights[ours + "input_layernorm.weight"], False)
        add(theirs + "ffn_norm.weight", weights[ours + "post_attention_layernorm.weight"], False)
        add(theirs + "attn_q.weight", turned(weights[ours + "self_attn.q_proj.weight"], heads))
        add(theirs + "attn_k.weight", turned(weights[ours + "self_attn.k_proj.weight"], kv_heads))
        add(theirs + "attn_v.weight", weights[ours + "self_attn.v_proj.weight"])
        add(theirs + "attn_output.weight", weights[ours + "self_attn.o_proj.weight"])
        for part in ("gate", "up", "down"):
            add(f"{theirs}ffn_{part}.weight", weights[f"{ours}mlp.{part}_proj.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
