"""Our optimizers, and our records, in the training loops of other libraries; each imports its library."""
