"""THE LLM ENGINE: continuous batching. Tokens in, tokens out; text, stop strings and protocols are the layer above."""
