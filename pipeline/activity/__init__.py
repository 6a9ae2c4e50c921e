"""Tell what is done: sequences of embeddings to scores per step, scores to segments."""
