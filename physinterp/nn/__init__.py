"""Networks: plain torch."""
