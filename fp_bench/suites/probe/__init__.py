"""The probe: retrieval tasks in the embedded model's own wording, chosen because they tell attention methods apart."""
