"""What a model's masks survive: corruptions of the image and attacks on the network, each at five severities."""
