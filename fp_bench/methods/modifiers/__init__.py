"""Methods that change what another one does: Delta Attention, skip-softmax."""
