"""The controller: turns watch events and resyncs into reconciles."""
