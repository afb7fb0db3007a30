"""What is measured and how. This room alone reads the gold reward and the held-out split."""
