"""Trained networks at work: inference, ONNX export, the demo."""
