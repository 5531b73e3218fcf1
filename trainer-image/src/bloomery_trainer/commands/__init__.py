"""The commands, a page each: the workflow from the configuration to the result."""
