# Shared by the scripts: where the project is, and how they speak. Sourced, not run.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." # -P: also through a link to scripts/
export PIP_DISABLE_PIP_VERSION_CHECK=1

if [ -t 2 ]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi
say() { printf '%s== %s%s\n' "$bold" "$*" "$plain" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
