"""The routes: ``predict`` for people and scripts, ``oip`` the Open Inference Protocol v2."""
