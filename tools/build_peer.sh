#!/usr/bin/env bash
# Builds the llama.cpp that `weft bench NAME --peer` compares with, out of the source distribution of the
# PyPI package llama-cpp-python, into build/peer/bin. No part of set-up; needs python3-pip, cmake, make, g++.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

readonly version=0.3.36
readonly archive="llama_cpp_python-$version.tar.gz"
readonly sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
readonly programs=(llama-bench llama-completion llama-perplexity llama-quantize llama-server llama-tokenize
                   ggml-rpc-server)
readonly folder=build/peer

mkdir -p "$folder"
if [ ! -f "$folder/$archive" ]; then
  python3 -m pip download --no-deps --no-binary llama-cpp-python --dest "$folder" \
    "llama-cpp-python==$version"
fi
if ! printf '%s  %s\n' "$sha256" "$folder/$archive" | sha256sum --check --status; then
  echo "build_peer.sh: $folder/$archive is missing or not the expected one (SHA-256 $sha256)." >&2
  exit 1
fi
[ -d "$folder/src" ] || {
  mkdir "$folder/src"
  # -m: files get the time of now. With those of the archive Ninja never gets past its own manifest.
  tar -xzmf "$folder/$archive" -C "$folder/src" --strip-components=3 \
    "llama_cpp_python-$version/vendor/llama.cpp"
}
# As its users build it: Release, for this machine's CPU, with OpenMP and all of its own kernels, and with
# the backend that divides a model among hosts.
cmake -S "$folder/src" -B "$folder" -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
  -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
  -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_UI=OFF -DGGML_RPC=ON
cmake --build "$folder" --parallel "$(nproc)" --target "${programs[@]}"
echo "built: $folder/bin/llama-bench"
