#!/usr/bin/env bash
exec "$(dirname "$0")/run.sh" train.py experiment=full trainer=npu_8p optim.lr=0.1 -- "$@"
