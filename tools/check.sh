#!/usr/bin/env bash
# Layout (clang-format) and lint (clang-tidy) of our sources.
#   tools/check.sh              every file
#   tools/check.sh FILE...      these
# Needs clang-format and clang-tidy, and a configured release build for clang-tidy's compile commands.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

if [ $# -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(git ls-files 'src/*.cc' 'src/*.h' 'tests/*.cc' 'tests/*.h' 'tools/*.cc' 'examples/*.cc')
fi
clang-format --dry-run --Werror "${files[@]}"

[ -f build/release/compile_commands.json ] || cmake --preset release >/dev/null
sources=()
for file in "${files[@]}"; do
  case "$file" in *.cc) sources+=("$file") ;; esac
done
# Four files at a time and core: clang-tidy parses each on its own.
printf '%s\0' "${sources[@]}" |
  xargs -0 -n 4 -P "$(nproc)" clang-tidy -p build/release --quiet --warnings-as-errors='*'
