"""What is looked at before any number about a problem is believed."""
