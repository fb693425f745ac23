#!/usr/bin/env bash
# What the scripts beside this one share: run.sh SCRIPT [OVERRIDE...] -- [--data_path=FOLDER] [OVERRIDE...]
# Words before "--" come from the script, those after it from the user; the user's are last and win.
set -euo pipefail
words=()
for word in "$@"; do
    case "$word" in
        --) ;;
        --data_path=*)  # quoted for Hydra, which takes few characters bare
            folder="${word#*=}"
            words+=("data.root='${folder//\'/\\\'}'") ;;
        --*) echo "error: $word is unknown; give --data_path=FOLDER, or overrides such as optim.lr=0.1" >&2; exit 2 ;;
        *) words+=("$word") ;;
    esac
done
script="${words[0]}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec "${PYTHON:-python}" "$root/$script" "${words[@]:1}"
