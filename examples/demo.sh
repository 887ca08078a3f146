#!/usr/bin/env bash
# The main job from end to end, on real input: train, archive, start, register, predict, stop. `make demo` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-$PWD/.venv/bin}
INFERENCE=${INFERENCE:-http://127.0.0.1:8080} MANAGEMENT=${MANAGEMENT:-http://127.0.0.1:8081} METRICS=${METRICS:-http://127.0.0.1:8082}
work=$(mktemp -d "${TMPDIR:-/tmp}/flambeau-demo.XXXXXX")
export PATH=$BIN:$PATH TMPDIR=$work  # a temporary folder of its own: the demo never stops a server it did not start
trap '"$BIN/torchserve" --stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

say "1. Train a small network on handwritten digits, and pack it as .mar and as .tar.gz"
(cd examples/digits && python train.py "$work/digits")
mkdir "$work/model_store"
for format in default tgz; do
  torch-model-archiver --model-name digits --version 1.0 --handler examples/digits/handler.py --model-file examples/digits/model.py \
    --serialized-file "$work/digits/digits.pt" --export-path "$work/model_store" --archive-format "$format" -f
done
ls -sh "$work/model_store"

say "2. Start the server"
cat > "$work/config.properties" <<EOF
inference_address=$INFERENCE
management_address=$MANAGEMENT
metrics_address=$METRICS
model_store=$work/model_store
EOF
(cd "$work" && show torchserve --start --ncs --ts-config "$work/config.properties")
for _ in $(seq 100); do curl -fs "$INFERENCE/ping" >/dev/null && break; sleep 0.2; done
show curl -s "$INFERENCE/ping"

say "3. Register the model with two workers"
show curl -s -X POST "$MANAGEMENT/models?url=digits.mar&initial_workers=2"

say "4. Send it real images"
for image in $(ls "$work"/digits/test/*.png | shuf -n 3 --random-source=examples/digits/model.py); do
  printf 'a handwritten %s: ' "$(basename "$image" | cut -c1)"
  curl -s "$INFERENCE/predictions/digits" -T "$image" | tr -d '\n '
  echo
done

say "5. The whole test split through the server"
python examples/digits/accuracy.py "$INFERENCE/predictions/digits" "$work/digits/test"

say "6. What the server counted"
curl -s "$METRICS/metrics" | grep '^ts_inference_requests_total' || true

if [ -d examples/tiny_lm/model ]; then
  say "7. A small language model, trained on documentation, as it writes"
  BIN=$BIN WORK=$work INFERENCE=$INFERENCE MANAGEMENT=$MANAGEMENT bash examples/tiny_lm/demo.sh
fi

say "Stop"
show torchserve --stop
