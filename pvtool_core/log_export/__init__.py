"""Export the log of a run to TensorBoard and Weights & Biases. Imports no torch."""
