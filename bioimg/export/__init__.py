"""Take a trained model out of bioimg: for QuPath, ONNX Runtime, timm and torchvision."""
