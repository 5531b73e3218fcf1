"""The choice of the fastest engine whose answers agree with the model's.

A server is ready with ONNX Runtime. In the background it then measures OpenVINO, where that is installed, in each
precision that suits the model and this processor, and lets the fastest that agrees with the references take over.
"""
