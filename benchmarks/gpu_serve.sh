#!/usr/bin/env bash
# Latencies of a server under load on a machine with an NVIDIA GPU: benchmarks/gpu_serve.sh [MODEL_CONFIG]
#
# Random weights and random token ids, 512 in and 128 out, at 4 and 16 requests a second and all at once. As gpu.sh, it
# takes packages from JAXLLM_GPU_SITE if that is set. Results also go to JAXLLM_GPU_RESULTS, if that names a folder.
set -euo pipefail
cd "$(dirname "$0")/.."

model=${1:-benchmarks/configs/llama-3.1-8b}
port=${JAXLLM_GPU_PORT:-8017}
folder=${JAXLLM_GPU_RESULTS:-$(mktemp -d)}
export PYTHONPATH="$PWD${JAXLLM_GPU_SITE:+:$JAXLLM_GPU_SITE}${PYTHONPATH:+:$PYTHONPATH}"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader

flags=(--load-format dummy --skip-tokenizer-init --max-model-len 4096 --no-enable-prefix-caching)
python3 -m jaxllm compile "$model" "${flags[@]}"
python3 -m jaxllm serve "$model" "${flags[@]}" --host 127.0.0.1 --port "$port" --disable-uvicorn-access-log >"$folder/server.log" 2>&1 &
server=$!
trap 'kill -TERM $server 2>/dev/null || true; wait $server || true; grep -E "Ready|KV cache|weights" "$folder/server.log"' EXIT

for run in "4 80" "16 240" "inf 500"; do
    read -r rate count <<<"$run"
    python3 -m jaxllm bench serve --model "$model" --port "$port" --random-input-len 512 --random-output-len 128 \
        --ignore-eos --num-prompts "$count" --request-rate "$rate" --ready-check-timeout-sec 300 --num-warmups 8 \
        --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,90,99 --disable-tqdm \
        --save-result --result-dir "$folder" --result-filename "serve-$rate.json"
done
