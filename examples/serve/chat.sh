#!/usr/bin/env bash
# Asks a running `weft serve` by curl: ./chat.sh "Why is the sky blue?"
set -euo pipefail
address=${WEFT_ADDRESS:-http://127.0.0.1:8080}
question=$(printf '%s' "${1:-Why is the sky blue?}" | sed 's/\\/\\\\/g; s/"/\\"/g')
curl --no-buffer --fail-with-body "$address/v1/chat/completions" \
  -H 'Content-Type: application/json' \
  -d "{\"messages\": [{\"role\": \"user\", \"content\": \"$question\"}], \"stream\": true}"
