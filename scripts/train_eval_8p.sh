#!/usr/bin/env bash
exec "$(dirname "$0")/run.sh" eval.py trainer=npu_8p -- "$@"
