#!/usr/bin/env bash
# Everything that needs a GPU, in one call under ten minutes: tests, microbenchmarks, recorded traces.
# Results lie in $OUT (default build/gpu); a failing part does not stop the others, but the exit code says so.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/gpu}
mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0

part() {  # name, seconds, command…
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$OUT/$name.log"
    if [ "${PIPESTATUS[0]}" -ne 0 ]; then
        echo "== $name FAILED"
        failed=1
    fi
}

part doctor 60 "$PYTHON" -m probe doctor
part microbench 200 "$PYTHON" -m probe run microbench --device cuda:0 -o "$OUT/microbench.json" --force
part tests 120 "$PYTHON" -m pytest -q -m gpu tests
part samples 150 "$PYTHON" sample_traces/record.py --device cuda --into "$OUT/samples"
exit $failed
