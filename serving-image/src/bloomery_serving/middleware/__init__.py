"""ASGI middleware, a concern each; ``app`` composes them, in an order that matters."""
