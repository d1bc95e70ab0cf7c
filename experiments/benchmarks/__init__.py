"""What jaxnet is measured against, and the measures."""
