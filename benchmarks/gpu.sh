#!/usr/bin/env bash
# Tests and measurements on a machine with an NVIDIA GPU, from the root of the repository: benchmarks/gpu.sh
#
# It installs jaxllm with its GPU packages into the Python that `python3` is, unless JAXLLM_GPU_SITE names a directory
# that has what that Python lacks. JAXLLM_GPU_MODELS are the configurations to measure, random weights are made for them.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${JAXLLM_GPU_SITE:-}" ]; then
    export PYTHONPATH="$PWD:$JAXLLM_GPU_SITE${PYTHONPATH:+:$PYTHONPATH}"
else
    python3 -m pip install --quiet -e '.[cuda,test]'
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader

python3 -m pytest -m gpu -q
python3 benchmarks/gpu_attention.py
for model in ${JAXLLM_GPU_MODELS:-benchmarks/configs/llama-3.1-8b}; do
    echo "$model"
    python3 -m benchmarks.gpu_engine "$model"
done
