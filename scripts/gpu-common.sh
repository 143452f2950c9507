# Shared by the gpu scripts: installs the carried wheels over the machine's own torch. Sourced, not run.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
out="${OUT:-out/gpu}"
mkdir -p "$out"
# --no-deps: the machine's own CUDA torch must stay.
python3 -m pip install --quiet --no-index --no-deps .whl/*.whl || fail "no wheels in .whl; run ./scripts/gpu-wheels first"
export PYTHONPATH="$PWD/src:$PWD" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.__version__, torch.cuda.get_device_name())'
