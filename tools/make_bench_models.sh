#!/usr/bin/env bash
# Writes the random-weight models that the benches use, of real shapes, into bench-models/ (git-ignored):
# 12 files, about 9 GB; with --published also Megrez2's 7.5 billion parameters in 4.5 bit, 4.2 GB.
# Same seed, same bytes. Files that are there already are left alone.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

cmake --preset release >/dev/null
ninja -C build/release weft_random_gguf
mkdir -p bench-models
write() {  # SHAPE TYPE
  file="bench-models/$1-$2.gguf"
  [ -f "$file" ] || build/release/weft_random_gguf --shape "$1" --type "$2" --seed 1 "$file"
  echo "$file"
}
write vocab-256k q8_0
for shape in qwen2.5-0.5b llama-3.2-1b; do
  for type in q8_0 q4_0 q4_K_M f16; do
    write "$shape" "$type"
  done
done
models="megrez2-mini:q8_0 megrez2-eighth:q4_0 dots1-eighth:q4_0"
[ "${1:-}" = --published ] && models="$models megrez2:q4_0"
for model in $models; do
  write "${model%:*}" "${model#*:}"
done
