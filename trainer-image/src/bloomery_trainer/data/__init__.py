"""Images on their way into training and evaluation."""
