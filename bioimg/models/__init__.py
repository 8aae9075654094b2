"""Any torchvision classifier: its weights, its frozen stages, faster forms of its convolutions."""
