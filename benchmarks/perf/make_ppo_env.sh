#!/bin/sh
# The environment of TRL 1.12, the last release with a PPO trainer; it and TRL 1.16 exclude each other.
set -e
env=${1:-$(dirname "$0")/../../.venv-ppo}
${PYTHON:-python3} -m venv "$env"
"$env/bin/pip" install --quiet torch==2.13.0 transformers==4.57.1 trl==1.12.0 peft
