#!/usr/bin/env bash
exec "$(dirname "$0")/run.sh" train.py experiment=performance trainer=npu_1p -- "$@"
