#!/usr/bin/env bash
# `serve` starts the server in the foreground, so that the container lives as long as it does and SIGTERM reaches it.
set -euo pipefail
if [ "${1:-serve}" = serve ]; then
  shift || true
  exec torchserve --start --foreground --ts-config /home/model-server/config.properties "$@"
fi
exec "$@"
