#!/usr/bin/env bash
# What a GPU machine can tell in nine minutes: is the engine right here, what does each part bring, how fast is it?
#
#   tools/gpu_check.sh [--dry-run] [FOLDER]       FOLDER: results/gpu_check-<date> unless named
#
# Needs nothing but Python 3.11 or newer with torch and the project's packages (pip install -e '.[dev]'); no network. Each
# part has its own limit of time, later parts run where an earlier one fails, and everything is left in FOLDER.
# From the environment: CANVASBENCH_GPU_CHECK_PYTHON (python3), CANVASBENCH_GPU_CHECK_DEVICE (a file in suites/device, or
# cpu; h100 otherwise), CANVASBENCH_GPU_CHECK_WORDS (more overrides for both suites), CANVASBENCH_GPU_CHECK_TESTS (which
# tests), CANVASBENCH_GPU_CHECK_SUITES ("engine_ablation_cuda gpu_check").
set -u -o pipefail

dry_run=false
if [ "${1:-}" = "--dry-run" ]; then
  dry_run=true
  shift
fi
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/results/gpu_check-$(date -u +%Y-%m-%d)}
python=${CANVASBENCH_GPU_CHECK_PYTHON:-python3}
device=${CANVASBENCH_GPU_CHECK_DEVICE:-h100}
read -r -a words <<<"${CANVASBENCH_GPU_CHECK_WORDS:-}"
read -r -a tests <<<"${CANVASBENCH_GPU_CHECK_TESTS:-tests/engine/kernels}"
read -r -a suites <<<"${CANVASBENCH_GPU_CHECK_SUITES:-engine_ablation_cuda gpu_check}"
interpret=0
[ "$device" = cpu ] && interpret=1
summary=()
status=0

# part NAME SECONDS COMMAND...: its output goes to FOLDER/NAME.log, and its end into the summary.
part() {
  local name=$1 limit_s=$2 begun code=0 outcome
  shift 2
  if $dry_run; then
    printf 'timeout -k 10 %s' "$limit_s"
    printf ' %q' "$@"
    printf '  > %s.log\n' "$name"
    return
  fi
  begun=$(date +%s)
  timeout -k 10 "$limit_s" "$@" >"$folder/$name.log" 2>&1 || code=$?
  case $code in
    0) outcome=ok ;;
    124 | 137) outcome="stopped after $limit_s s" ;;
    *) outcome="failed with $code" ;;
  esac
  [ "$code" -eq 0 ] || status=1
  summary+=("$(printf '%-16s %-22s %4d s   %s' "$name" "$outcome" "$(($(date +%s) - begun))" "$name.log")")
}

cd "$root" || exit 2
$dry_run || mkdir -p "$folder" || exit 2

# What this machine is. The packages without paths of installations, which can hold a user's name.
part doctor 30 "$python" -m harness doctor --json
command -v nvidia-smi >/dev/null && part nvidia_smi 15 nvidia-smi -q
part packages 15 "$python" -c 'from importlib.metadata import distributions
print(*sorted({f"{d.name}=={d.version}" for d in distributions()}), sep="\n")'

# 30 + 15 + 15 + 100 + 2 x 180 = 520 s at the most.
part tests 100 env "TRITON_INTERPRET=$interpret" "$python" -m pytest -q -rfE -p no:cacheprovider "${tests[@]}"
for suite in "${suites[@]}"; do
  part "$suite" 180 "$python" -m harness run "suite=$suite" "device=$device" fresh=true \
    "results_dir=$folder" "reports_dir=$folder" ${words[@]+"${words[@]}"}
done

if ! $dry_run; then
  printf '%s\n' "${summary[@]}" | tee "$folder/summary.txt"
  echo "everything is in $folder"
fi
exit $status
