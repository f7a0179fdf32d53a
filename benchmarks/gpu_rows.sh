#!/usr/bin/env bash
# Whole runs on one NVIDIA GPU with random weights, as vLLM's were measured: benchmarks/gpu_rows.sh [CONFIG]
#
# Random prompts, no end of sequence, no prefix cache, at most 8,192 tokens a sequence but in the last row. The programs are compiled first,
# so that no run compiles. As gpu.sh, it takes packages from JAXLLM_GPU_SITE. JAXLLM_GPU_ROWS chooses rows: a regular expression for their names.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-benchmarks/configs/llama-3.1-8b}
engine=(--model "$model" --load-format dummy --skip-tokenizer-init --no-enable-prefix-caching --max-model-len 8192)
result=$(mktemp)
export PYTHONPATH="$PWD${JAXLLM_GPU_SITE:+:$JAXLLM_GPU_SITE}${PYTHONPATH:+:$PYTHONPATH}"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader

throughput() { # name, prompts, input, output, temperature
    [[ $1 =~ ${JAXLLM_GPU_ROWS:-.} ]] || return 0
    python3 -m jaxllm bench throughput "${engine[@]}" --num-prompts "$2" --input-len "$3" --output-len "$4" \
        --temperature "$5" --output-json "$result" >"$result.log" 2>&1 || { tail -n 20 "$result.log"; return 1; }
    python3 -c "
import json
run = json.load(open('$result'))
print(f'$1: {run[\"elapsed_time\"]:.2f} s, {$2 * $4 / run[\"elapsed_time\"]:,.0f} output tokens/s')"
}

latency() { # name, batch, input, output, and the longest sequence if it is longer
    [[ $1 =~ ${JAXLLM_GPU_ROWS:-.} ]] || return 0
    python3 -m jaxllm bench latency "${engine[@]}" --max-model-len "${5:-8192}" --batch-size "$2" --input-len "$3" --output-len "$4" \
        --temperature 0 --num-iters-warmup 3 --num-iters 10 --output-json "$result" >"$result.log" 2>&1 ||
        { tail -n 20 "$result.log"; return 1; }
    grep -v "^INFO\|^WARNING\|%|" "$result.log" | tail -n 12 | sed "s/^/$1: /"
}

python3 -m jaxllm compile "${engine[@]}" >"$result.log" 2>&1 || { tail -n 20 "$result.log"; exit 1; }
latency "latency 1 x (128, 256)" 1 128 256
throughput "8 x (1024, 256), temperature 0.8" 8 1024 256 0.8
throughput "64 x (1024, 256), temperature 0.8" 64 1024 256 0.8
throughput "1000 x (1024, 128)" 1000 1024 128 0
throughput "512 x (512, 512)" 512 512 512 0
throughput "512 x (128, 1024)" 512 128 1024 0
latency "long contexts, 4 x (32768, 128)" 4 32768 128 33024
