"""The engines that compute a model's network, behind one interface."""
