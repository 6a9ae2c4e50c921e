"""See: embeddings of images by a CNN, boxes of people by YOLO."""
