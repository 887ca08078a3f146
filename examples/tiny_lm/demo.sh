#!/usr/bin/env bash
# The last part of `make demo`: pack the tiny language model, register it, and watch it write. Needs a running server.
set -euo pipefail
store=$WORK/model_store
printf 'handler:\n  model_path: .\n' > "$WORK/tiny.yaml"
"$BIN/torch-model-archiver" --model-name tiny_lm --version 1.0 --handler text_generation --extra-files examples/tiny_lm/model \
  --config-file "$WORK/tiny.yaml" --export-path "$store" -f
curl -s -X POST "$MANAGEMENT/models?url=tiny_lm.mar&initial_workers=1"
say() { curl -sN "$INFERENCE/$1" -H 'Content-Type: application/json' -d "$2"; echo; }
echo '$ curl -N …/inference/tiny_lm -d {"text": "The function returns", …}'
say inference/tiny_lm '{"text": "The function returns", "max_tokens": 48, "temperature": 0.7, "seed": 4}'
echo '$ curl …/v1/completions -d {"model": "tiny_lm", "prompt": "If the file", …}'
say v1/completions '{"model": "tiny_lm", "prompt": "If the file", "max_tokens": 32, "temperature": 0}'
