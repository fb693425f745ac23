"""What a run leaves in its folder: where each file lies, what it holds, how two runs differ."""
