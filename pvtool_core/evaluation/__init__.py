"""Score rendered clips with models that training did not use."""
