"""The routes: ``predict`` for people and scripts, ``open_inference`` for the protocol's clients, ``pages``."""
