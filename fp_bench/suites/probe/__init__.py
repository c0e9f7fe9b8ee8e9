"""The probe: retrieval tasks in the embedded model's wording, chosen because they separate attention methods."""
