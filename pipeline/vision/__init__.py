"""Computer vision: image embeddings by a CNN, bounding boxes of people by YOLO."""
