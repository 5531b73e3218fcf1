"""Capture of requests' images for later training, and feedback about their true classes."""
