"""Label activities: sequences of embeddings become scores per step, scores become segments."""
